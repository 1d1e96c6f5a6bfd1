"""`python -m scheduler.simulator`: run a trace against the scheduler in virtual time.

Exit codes: 0 done; 2 wrong usage, or a malformed file.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scheduler.packing.scoring import PackingPolicy
from scheduler.simulator.fill import fill
from scheduler.simulator.openb import TraceError, read_nodes, read_tasks
from scheduler.simulator.report import as_json, as_svg, as_text, write_assignments


def main(arguments: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.plot is not None and options.plot.suffix != ".svg":
        parser.error(f"--plot writes SVG: name a file that ends in .svg, not {options.plot}")
    try:
        nodes, tasks = read_nodes(options.nodes), read_tasks(options.tasks)
        report = fill(nodes, tasks, policy=PackingPolicy(options.policy), seed=options.seed)
        if options.out is not None:
            write_assignments(options.out, report.assignments)
        if options.plot is not None:
            options.plot.write_text(as_svg([report]), encoding="utf-8")
    except TraceError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}")
    sys.stdout.write((as_json(report) if options.json else as_text(report)) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="remotegpu simulate", description="Run a trace against the scheduler in virtual time."
    )
    parser.add_argument("--nodes", type=Path, required=True, help="CSV with sn,cpu_milli,memory_mib,gpu,model")
    parser.add_argument(
        "--tasks", type=Path, required=True, help="CSV with name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec"
    )
    parser.add_argument(
        "--arrivals", choices=["fill"], default="fill", help="fill, the default: in random order, and none leaves"
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
