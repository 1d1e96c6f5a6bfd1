"""What an experiment leaves: assignments that anyone can check, figures, and a picture."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scheduler.simulator.fill import Assignment, FillReport

_WIDTH, _HEIGHT, _MARGIN = 640, 400, 50
_POINTS = 400  # of a plotted curve: more than these can't be seen


def write_assignments(path: Path, assignments: Sequence[Assignment]) -> None:
    """One row per arrival, in order: `task,node,devices`, the devices as `index:milli` joined by `;`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "node", "devices"])
        for each in assignments:
            devices = ";".join(f"{index}:{each.task.shape.milli}" for index in each.devices)
            writer.writerow([each.name, each.node or "", devices])


def as_json(report: FillReport) -> str:
    document: dict[str, Any] = {  # Any: JSON
        "arrivals": "fill",
        "policy": report.policy,
        "seed": report.seed,
        "gpus": report.gpus,
        "tasks": len(report.assignments),
        "refused": report.refused,
        "allocated_percent_at_100": round(report.allocated_percent, 4),
        "curve": {
            "requested_percent": [round(asked, 4) for asked, _ in report.curve],
            "allocated_percent": [round(given, 4) for _, given in report.curve],
        },
    }
    return json.dumps(document)


def as_text(report: FillReport) -> str:
    lines = [
        f"{report.policy}, seed {report.seed}: {report.gpus:,} GPUs, {len(report.assignments):,} tasks, "
        f"{report.refused:,} refused",
        "requested %   allocated %",
    ]
    marks = [*range(10, 100, 10), 95, 100, 110, 120, 130]
    for mark in sorted(marks):
        given = next((given for asked, given in report.curve if asked >= mark), report.curve[-1][1])
        lines.append(f"{mark:11d} {given:13.2f}")
    return "\n".join(lines)


def as_svg(reports: Sequence[FillReport]) -> str:
    """The curves of some runs, over the same axes."""
    inner_width, inner_height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN

    def x(percent: float) -> float:
        return _MARGIN + inner_width * percent / 130

    def y(percent: float) -> float:
        return _HEIGHT - _MARGIN - inner_height * percent / 100

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for mark in range(0, 131, 10):
        parts.append(f'<text x="{x(mark):.1f}" y="{_HEIGHT - _MARGIN + 18}" text-anchor="middle">{mark}</text>')
    for mark in range(0, 101, 20):
        parts.append(
            f'<path d="M{x(0):.1f} {y(mark):.1f}H{x(130):.1f}" stroke="#ddd"/>'
            f'<text x="{_MARGIN - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark}</text>'
        )
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 8}" text-anchor="middle">GPUs requested, % of all</text>')
    parts.append(f'<text x="{_MARGIN}" y="20">GPUs allocated, % of all</text>')
    for number, report in enumerate(reports):
        step = max(1, len(report.curve) // _POINTS)
        points = " ".join(f"{x(asked):.1f},{y(given):.1f}" for asked, given in report.curve[::step])
        hue = number * 137 % 360
        label = f"{report.policy}, seed {report.seed}: {report.allocated_percent:.2f} % at 100 %"
        parts.append(f'<polyline points="{points}" fill="none" stroke="hsl({hue} 70% 40%)" stroke-width="1.5"/>')
        parts.append(f'<text x="{x(5):.1f}" y="{y(94 - 6 * number):.1f}" fill="hsl({hue} 70% 40%)">{label}</text>')
    return "\n".join([*parts, "</svg>\n"])
