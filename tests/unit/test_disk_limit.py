"""What counts as disk use, how much a lease may use, and what becomes of one that is over: on real files."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.daemon.container_spec import OUTSIDE
from node.daemon.disk import (
    BYTES_PER_FILE,
    CLEAN_UP_S,
    GRACE_BYTES,
    Overruns,
    SizedVolume,
    TooManyFilesError,
    Trees,
    allowed_bytes,
    measure,
    trees_of,
)
from node.daemon.store import Store

GIB = 2**30


@pytest.fixture
def overruns(tmp_path: Path) -> Iterator[Overruns]:
    store = Store(tmp_path / "spool.sqlite")
    yield Overruns(store)
    store.close()


def test_layer_and_writable_volumes_count_and_nothing_else() -> None:
    mounts = [
        {"Type": "volume", "Source": "/v/home", "RW": True},
        {"Type": "volume", "Source": "/v/shared", "RW": False},
        {"Type": "volume", "Source": "/v/nameless", "RW": True},
        {"Type": "bind", "Source": "/etc", "RW": True},
    ]
    inspected = {"GraphDriver": {"Data": {"UpperDir": "/u"}}, "Mounts": mounts}
    assert trees_of(inspected) == Trees("/u", ("/v/home", "/v/nameless"))
    assert trees_of({"GraphDriver": {"Data": None}}) is None


def test_a_tasks_output_counts_and_its_volumes_have_their_own_limits(tmp_path: Path) -> None:
    trees = {name: tmp_path / name for name in ("layer", "out", "data")}
    for size, tree in enumerate(trees.values(), 1):
        tree.mkdir()
        (tree / "file").write_bytes(os.urandom(size * 1_000_000))
    mounts = [
        {"Type": "volume", "Name": "v-1", "Source": str(trees["data"]), "Destination": "/data", "RW": True},
        {"Type": "bind", "Source": str(trees["out"]), "Destination": OUTSIDE, "RW": True},
        {"Type": "bind", "Source": "/in", "Destination": "/run/remotegpu/in", "RW": False},
    ]
    inspected = {"GraphDriver": {"Data": {"UpperDir": str(trees["layer"])}}, "Mounts": mounts}
    found = trees_of(inspected, {"v-1": 5})
    assert found is not None
    assert found.sized == (SizedVolume("v-1", str(trees["data"]), "/data", 5),)
    use = measure(found)
    assert use is not None and use.volumes == 0
    assert 3_000_000 <= use.total < 3_100_000 and 3_000_000 <= use.sized["v-1"] < 3_100_000


def test_bytes_are_measured_hard_links_once_and_deep_trees_whole(tmp_path: Path) -> None:
    layer, home = tmp_path / "layer", tmp_path / "home with\nnewline"
    layer.mkdir()
    home.mkdir()
    (home / "data").write_bytes(os.urandom(3_000_000))
    os.link(home / "data", home / "again")
    depth = 2000  # longer than a path may be
    place = os.open(layer, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 10, dir_fd=place)
        deeper = os.open("d" * 10, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = deeper
    os.close(place)
    use = measure(Trees(str(layer), (str(home),)))
    assert use is not None
    assert 3_000_000 <= use.volumes < 3_200_000
    assert use.layer >= depth * BYTES_PER_FILE
    subprocess.run(["rm", "-rf", str(layer)], check=True)  # shutil does not go as deep


def test_empty_files_are_not_free(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    for number in range(300):
        (layer / str(number)).touch()
    use = measure(Trees(str(layer)))
    assert use is not None and use.total >= 300 * BYTES_PER_FILE


def test_a_container_that_is_gone_uses_nothing_known(tmp_path: Path) -> None:
    assert measure(Trees(str(tmp_path / "gone"))) is None


def test_a_tree_that_takes_too_long_is_not_taken_for_small(tmp_path: Path) -> None:
    with pytest.raises(TooManyFilesError):
        measure(Trees(str(tmp_path)), longest_s=0.0)


def test_over_the_limit_there_is_time_to_clean_up_but_no_room_to_grow() -> None:
    limit, held = 10 * GIB, 25 * GIB
    assert allowed_bytes(limit, overrun=None, running_s=0) == limit
    assert allowed_bytes(limit, overrun=held, running_s=CLEAN_UP_S) == held + GRACE_BYTES
    assert allowed_bytes(limit, overrun=held, running_s=CLEAN_UP_S + 1) == limit
    assert allowed_bytes(limit, overrun=1, running_s=0) == limit


def test_restarts_do_not_add_up(overruns: Overruns) -> None:
    assert overruns.of("home", used=12 * GIB, limit=10 * GIB) is None  # never ended for it: the limit holds
    overruns.begin("home")
    assert overruns.of("home", used=12 * GIB, limit=10 * GIB) == 12 * GIB
    overruns.begin("home")
    assert overruns.of("home", used=13 * GIB, limit=10 * GIB) == 12 * GIB
    assert overruns.of("home", used=9 * GIB, limit=10 * GIB) is None  # cleaned up
    assert overruns.of("home", used=12 * GIB, limit=10 * GIB) is None
    assert overruns.of(None, used=12 * GIB, limit=10 * GIB) is None
