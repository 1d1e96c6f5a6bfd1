"""The scheduler on public traces, beside what its peers have published: `make bench-scheduler TRACES=DIR`."""

from scheduler.packing.scoring import PackingPolicy
from scheduler.simulator.fill import fill
from scheduler.simulator.openb import Node, Task, read_nodes, read_tasks
from tests.bench.figures import Figure, median
from tests.bench.traces import directory

_SEEDS = range(3)
# Weng et al., USENIX ATC 2023: percent of GPUs allocated when requests reach all of them, mean of ten seeds.
_PUBLISHED = {PackingPolicy.BEST_FIT: 92.86, PackingPolicy.RANDOM: 86.30}
_SAME_EXPERIMENT = 0.5
_REQUIRED = 95.5


def run() -> list[Figure]:
    nodes = read_nodes(directory() / "openb_node_list_gpu_node.csv")
    tasks = read_tasks(directory() / "openb_pod_list_default.csv")
    ours = _filled(nodes, tasks, PackingPolicy.FRAGMENTATION)
    figures = [Figure("fill, fragmentation", median(ours), "% of GPUs", _REQUIRED, False, {"seeds": ours})]
    for policy, published in _PUBLISHED.items():
        found = _filled(nodes, tasks, policy)
        away = abs(median(found) - published)
        name = f"fill, {policy}, away from the published {published} %"
        figures.append(Figure(name, away, "points", _SAME_EXPERIMENT, True, {"seeds": found}))
    return figures


def _filled(nodes: list[Node], tasks: list[Task], policy: PackingPolicy) -> list[float]:
    return [fill(nodes, tasks, policy=policy, seed=seed).allocated_percent for seed in _SEEDS]
