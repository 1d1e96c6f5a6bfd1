"""Curves as SVG, written by hand: a few lines over two axes need no library."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _MARGIN = 640, 400, 50
_POINTS = 400  # of a plotted curve: more than these can't be seen
_MARKS = 13


@dataclass(frozen=True, slots=True)
class Curve:
    """`points` by their x, which rises; y is in percent."""

    label: str
    points: Sequence[tuple[float, float]]


def as_svg(curves: Sequence[Curve], *, x_label: str, y_label: str, x_end: float) -> str:
    """The curves over the same axes: x from 0 to `x_end`, y from 0 to 100 %."""
    inner_width, inner_height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN

    def x(value: float) -> float:
        return _MARGIN + inner_width * value / x_end

    def y(percent: float) -> float:
        return _HEIGHT - _MARGIN - inner_height * percent / 100

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for mark in range(_MARKS + 1):
        value = x_end * mark / _MARKS
        parts.append(f'<text x="{x(value):.1f}" y="{_HEIGHT - _MARGIN + 18}" text-anchor="middle">{value:.4g}</text>')
    for percent in range(0, 101, 20):
        parts.append(
            f'<path d="M{x(0):.1f} {y(percent):.1f}H{x(x_end):.1f}" stroke="#ddd"/>'
            f'<text x="{_MARGIN - 8}" y="{y(percent) + 4:.1f}" text-anchor="end">{percent}</text>'
        )
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text x="{_MARGIN}" y="20">{escape(y_label)}</text>')
    for number, curve in enumerate(curves):
        step = max(1, len(curve.points) // _POINTS)
        points = " ".join(f"{x(across):.1f},{y(up):.1f}" for across, up in curve.points[::step])
        colour = f"hsl({number * 137 % 360} 70% 40%)"
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(
            f'<text x="{_MARGIN + 20}" y="{y(94 - 6 * number):.1f}" fill="{colour}">{escape(curve.label)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])
