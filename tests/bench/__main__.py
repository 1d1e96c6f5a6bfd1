"""Run the benchmarks that are named, or those of the platform."""

import argparse
from collections.abc import Callable

from tests.bench import (
    api_list,
    billing,
    billing_admission,
    billing_day,
    billing_ingestion,
    billing_statement,
    decision_cycle,
    end_estimate,
    environment_start,
    launcher,
    log_follow,
    queue_sets,
    ray_jobs,
    scheduler,
    task_array,
    tasks,
)
from tests.bench.figures import Figure, report

BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "environment-start": environment_start.run,
    "launcher": launcher.run,
    "api-list": api_list.run,
    "tasks": tasks.run,
    "ray-jobs": ray_jobs.run,
    "log-follow": log_follow.run,
    "task-array": task_array.run,
    "scheduler": scheduler.run,
    "end-estimate": end_estimate.run,
    "decision-cycle": decision_cycle.run,
    "queue-sets": queue_sets.run,
    "billing": billing.run,
    "billing-ingestion": billing_ingestion.run,
    "billing-day": billing_day.run,
    "billing-statement": billing_statement.run,
    "billing-admission": billing_admission.run,
}
PLATFORM = ("environment-start", "launcher", "api-list")  # the scheduler's needs traces


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="by default, those of the platform")
    names = parser.parse_args().names or list(PLATFORM)
    report([figure for name in names for figure in BENCHMARKS[name]()])


main()
