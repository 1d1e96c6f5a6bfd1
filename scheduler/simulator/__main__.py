"""`python -m scheduler.simulator`: run a trace against the scheduler in virtual time.

Exit codes: 0 done; 2 wrong usage, or a malformed file.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scheduler.engine.engine import Engine
from scheduler.engine.settings import EngineSettings
from scheduler.packing.scoring import PackingPolicy, make_scoring
from scheduler.simulator import report
from scheduler.simulator.course import Course
from scheduler.simulator.fill import Assignment, FillReport, fill
from scheduler.simulator.openb import TraceError, read_nodes, read_tasks, read_trace
from scheduler.simulator.queue_sets import read_queue_sets
from scheduler.simulator.trace import Trace
from scheduler.simulator.virtual import Simulation

_GRACE_S = 0.0  # what has to give way does so at once


@dataclass(frozen=True, slots=True)
class _Done:
    """What a simulation came to, in each of its forms."""

    text: str
    json: str
    svg: str
    assignments: Sequence[Assignment] = ()


def main(arguments: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if (wrong := _wrong(options)) is not None:
        parser.error(wrong)
    try:
        done = _simulate(options)
        if options.out is not None:
            report.write_assignments(options.out, done.assignments)
        if options.plot is not None:
            options.plot.write_text(done.svg, encoding="utf-8")
    except TraceError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}")
    sys.stdout.write((done.json if options.json else done.text) + "\n")
    return 0


def _simulate(options: argparse.Namespace) -> _Done:
    policy = PackingPolicy(options.policy)
    if options.queues is not None:
        return _of_run(_run(read_queue_sets(options.queues), policy, options.seed))
    if options.arrivals == "trace":
        return _of_run(_run(read_trace(options.nodes, options.tasks), policy, options.seed))
    return _of_fill(fill(read_nodes(options.nodes), read_tasks(options.tasks), policy=policy, seed=options.seed))


def _run(trace: Trace, policy: PackingPolicy, seed: int) -> Course:
    engine = Engine(EngineSettings(grace_s=_GRACE_S), partial(make_scoring, policy, seed=seed))
    return Simulation(trace, engine).run()


def _of_run(course: Course) -> _Done:
    return _Done(report.run_text(course), report.run_json(course), report.run_svg(course))


def _of_fill(found: FillReport) -> _Done:
    return _Done(report.fill_text(found), report.fill_json(found), report.fill_svg(found), found.assignments)


def _wrong(options: argparse.Namespace) -> str | None:
    """What is wrong with the options together."""
    if options.queues is None and (options.nodes is None or options.tasks is None):
        return "give --nodes and --tasks, or --queues"
    if options.queues is not None and (options.nodes, options.tasks, options.arrivals) != (None, None, None):
        return "--queues says what comes when: leave out --nodes, --tasks and --arrivals"
    if options.out is not None and (options.queues is not None or options.arrivals == "trace"):
        return "--out is for --arrivals fill"
    if options.plot is not None and options.plot.suffix != ".svg":
        return f"--plot writes SVG: name a file that ends in .svg, not {options.plot}"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="remotegpu simulate", description="Run a trace against the scheduler in virtual time."
    )
    parser.add_argument("--nodes", type=Path, help="CSV with sn,cpu_milli,memory_mib,gpu,model")
    parser.add_argument("--tasks", type=Path, help="CSV with name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec")
    parser.add_argument("--queues", type=Path, help="instead of both: YAML with cohorts of queues, and what they queue")
    parser.add_argument(
        "--arrivals",
        choices=["fill", "trace"],
        help="fill, the default: in random order, and none leaves; trace: by creation_time and deletion_time",
    )
    parser.add_argument("--policy", choices=list(PackingPolicy), default=PackingPolicy.FRAGMENTATION)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the assignments as CSV: task,node,devices")
    parser.add_argument("--plot", type=Path, help="draw the curve as SVG")
    parser.add_argument("--json", action="store_true", help="the figures for programs")
    return parser


def _failed(message: str) -> int:
    sys.stderr.write(f"remotegpu simulate: {message}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
