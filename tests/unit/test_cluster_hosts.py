"""Which hosts: for one node, for the nodes of a gang, and when there come more or others."""

import pytest

from scheduler.demand import Demand
from scheduler.packing.scoring import PackingPolicy
from scheduler.packing.shape import Shape
from scheduler.views import HostView, Part
from tests.unit.small_clusters import (
    A100,
    GIB,
    H100,
    HALF,
    ONE,
    TWO,
    cluster_of,
    fill,
    host,
    hosts,
    place,
)


def test_the_image_decides_between_hosts_that_are_about_as_good() -> None:
    cluster = cluster_of(host(1, H100), host(2, H100, images=frozenset({"torch"})), host(3, H100, H100))
    assert hosts(cluster.find(Demand(ONE, image="torch"), 1)) == [2]
    assert hosts(cluster.find(Demand(ONE, image="jax"), 1)) == [1]
    cluster.set_host(host(2, H100))
    cluster.set_host(host(3, H100, H100, images=frozenset({"torch"})))
    assert hosts(cluster.find(Demand(ONE, image="torch"), 1)) == [1], "a worse place is too much for an image"


def test_requests_kept_apart_never_meet_on_a_host() -> None:
    cluster = cluster_of(host(1, H100, H100), host(2, H100, H100))
    replica = Demand(ONE, apart="replicas")
    assert hosts(place(cluster, 1, replica)) == [1]
    assert hosts(place(cluster, 2, replica, customer_id=2)) == [1], "another customer's name is another name"
    assert hosts(place(cluster, 3, replica)) == [2]
    assert cluster.find(replica, 1) is None
    assert hosts(cluster.find(Demand(ONE, apart="others"), 1)) == [2]
    cluster.release(3)
    assert hosts(cluster.find(replica, 1)) == [2]


def test_a_bound_request_goes_to_its_host_or_nowhere() -> None:
    cluster = cluster_of(host(1, H100), host(2, H100, H100))
    assert hosts(cluster.find(Demand(ONE, bound_host_id=2), 1)) == [2]
    assert cluster.find(Demand(ONE, nodes=2, bound_host_id=2), 1) is None
    assert cluster.find(Demand(ONE, bound_host_id=7), 1) is None


def racks(*sizes: int) -> list[HostView]:
    """Hosts of two GPUs in racks of these sizes, two racks in a zone."""
    labels = [{"rack": f"r{rack}", "zone": f"z{rack // 2}"} for rack, size in enumerate(sizes) for _ in range(size)]
    return [host(number, H100, H100, labels=each) for number, each in enumerate(labels, start=1)]


@pytest.mark.parametrize(
    ("nodes", "within", "chosen"),
    [
        (1, None, [1]),
        (2, None, [4, 5]),  # the rack with the least room that takes them
        (3, None, [1, 2, 3]),
        (4, None, [6, 7, 8, 9]),
        (5, None, [1, 2, 3, 4, 5]),  # a zone
        (6, None, [6, 7, 8, 9, 10, 11]),
        (7, None, [1, 2, 3, 4, 5, 6, 7]),  # anywhere
        (4, "zone", [6, 7, 8, 9]),
        (5, "zone", [1, 2, 3, 4, 5]),
        (5, "rack", None),
        (7, "zone", None),
        (12, None, None),
        (2, "building", None),  # no host says where it is
    ],
)
def test_a_gang_gets_the_closest_hosts_that_take_all_of_it(
    nodes: int, within: str | None, chosen: list[int] | None
) -> None:
    demand = Demand(TWO, nodes=nodes, within=within)
    cluster = cluster_of(*reversed(racks(3, 2, 4, 2)))
    assert hosts(cluster.find(demand, 1)) == chosen
    assert cluster.could_ever(demand) == (chosen is not None)


def test_a_gang_goes_where_least_else_is_free() -> None:
    cluster = cluster_of(*racks(3, 3))
    fill(cluster, 1, 60)
    assert hosts(cluster.find(Demand(TWO, nodes=2), 1)) == [4, 5]
    assert hosts(cluster.find(Demand(ONE, nodes=2), 1)) == [4, 6], "the fullest hosts of the fullest rack"


def test_a_host_that_moves_is_found_where_it_is_now() -> None:
    cluster = cluster_of(*racks(2, 1))
    assert cluster.find(Demand(ONE, nodes=3, within="rack"), 1) is None
    cluster.set_host(host(3, H100, H100, labels={"rack": "r0", "zone": "z0"}))
    assert hosts(cluster.find(Demand(ONE, nodes=3, within="rack"), 1)) == [1, 2, 3]


def test_more_hosts_and_wider_ones_than_there_were_at_first() -> None:
    cluster = cluster_of(*(host(number, H100) for number in range(1, 65)))
    assert hosts(cluster.find(Demand(ONE), 1)) == [1]
    for number in range(65, 201):
        cluster.set_host(host(number, *[H100] * (number // 65)))
    assert hosts(cluster.find(Demand(Shape(1, 1, 3)), 1)) == [195]
    assert len(cluster.find(Demand(ONE, nodes=200), 1) or ()) == 200
    for number in range(1, 195):
        cluster.drop_host(number)
    assert hosts(cluster.find(Demand(ONE), 1)) == [195]


def test_what_is_learned_of_requests_changes_where_the_next_one_goes() -> None:
    """Four GPUs are the usual: the host that has them free is kept, though it is the better fit for one."""
    cluster = cluster_of(host(1, *[H100] * 4, cpu_milli=8000), host(2, *[H100] * 5), policy=PackingPolicy.FRAGMENTATION)
    assert hosts(cluster.find(Demand(ONE), 1)) == [1]
    cluster.observe(Shape(1000, GIB, 4))
    assert hosts(cluster.find(Demand(ONE), 1)) == [2]


def test_a_gang_is_of_one_model() -> None:
    cluster = cluster_of(host(1, H100), host(2, A100), host(3, A100))
    assert hosts(cluster.find(Demand(ONE, nodes=2), 1)) == [2, 3]
    assert cluster.find(Demand(ONE, nodes=3), 1) is None


def test_ranks_follow_the_topology() -> None:
    where = {1: "b", 2: "a", 3: "b", 4: "a"}
    cluster = cluster_of(*(host(number, H100, labels={"rack": rack}) for number, rack in where.items()))
    assert hosts(cluster.find(Demand(ONE, nodes=4), 1)) == [2, 4, 1, 3]


def test_shares_in_a_gang_are_on_hosts_of_their_own() -> None:
    cluster = cluster_of(host(1, H100), host(2, H100), host(3, H100))
    place(cluster, 1, Demand(HALF, bound_host_id=2))
    assert place(cluster, 2, Demand(HALF, nodes=2)) == (Part(1, ((10, 500),)), Part(2, ((20, 500),)))
