"""What an experiment leaves: assignments that anyone can check, figures, and a picture."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scheduler.simulator.chart import Curve, as_svg
from scheduler.simulator.course import Course
from scheduler.simulator.figures import KindFigures, run_figures
from scheduler.simulator.fill import Assignment, FillReport


def write_assignments(path: Path, assignments: Sequence[Assignment]) -> None:
    """One row per arrival, in order: `task,node,devices`, the devices as `index:milli` joined by `;`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "node", "devices"])
        for each in assignments:
            devices = ";".join(f"{index}:{each.task.shape.milli}" for index in each.devices)
            writer.writerow([each.name, each.node or "", devices])


def fill_json(report: FillReport) -> str:
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


def fill_text(report: FillReport) -> str:
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


def fill_svg(report: FillReport) -> str:
    label = f"{report.policy}, seed {report.seed}: {report.allocated_percent:.2f} % at 100 %"
    curve = Curve(label, report.curve)
    return as_svg([curve], x_label="GPUs requested, % of all", y_label="GPUs allocated, % of all", x_end=130)


def run_json(course: Course) -> str:
    document: dict[str, Any] = {  # Any: JSON
        "arrivals": "trace",
        "gpus": course.trace.gpus,
        "tasks": len(course.stories),
        **asdict(run_figures(course)),
        "use": {
            "time_ms": [time_ms for time_ms, _ in course.use],
            "gpu_milli": [milli for _, milli in course.use],
        },
    }
    return json.dumps(document)


def run_text(course: Course) -> str:
    figures = run_figures(course)
    lines = [
        f"{len(course.stories):,} tasks, {course.trace.gpus:,} GPUs: done after {figures.makespan_s:,.1f} s; "
        f"{figures.used_percent:.1f} % of GPU time used, {figures.lost_percent:.1f} % lost to preemption",
        f"{figures.admissions:,} admissions, {figures.preemptions:,} preemptions, {figures.waiting:,} never started",
        f"{'class':<12} {'tasks':>8} {'finished':>8} {'preempted':>9} {'mean wait s':>12} {'longest s':>12}",
    ]
    return "\n".join([*lines, *(_kind_line(kind) for kind in figures.kinds)])


def _kind_line(kind: KindFigures) -> str:
    return (
        f"{kind.kind:<12} {kind.count:>8,} {kind.finished:>8,} {kind.preemptions:>9,} {kind.mean_wait_s:>12,.2f} "
        f"{kind.longest_wait_s:>12,.2f}"
    )


def run_svg(course: Course) -> str:
    total = max(1, course.trace.gpus)
    points = [(time_ms / 1000, milli / total / 10) for time_ms, milli in course.use]
    curve = Curve(f"{len(course.stories):,} tasks", points)
    return as_svg([curve], x_label="time, s", y_label="GPUs in use, % of all", x_end=max(1.0, points[-1][0]))
