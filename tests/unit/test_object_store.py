"""Objects in a directory and in an S3, by the same tests."""

import stat
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from api.object_store import PIECE_BYTES, Location, NoSuchObject, ObjectStore, ObjectStoreUnavailable, location_of
from api.settings import Settings


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["directory", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "directory":
        return ObjectStore(Location((tmp_path / "with space" / "objects").as_uri()))
    return ObjectStore(bucket(request.getfixturevalue("s3_endpoint"), tmp_path.name.lower().replace("_", "-")))


def bucket(endpoint: str, name: str) -> Location:
    name = f"b-{name}"[:60].rstrip("-")
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT"), timeout=10).close()
    return Location(f"s3://{name}/platform", endpoint, "us-east-1", "key", "secret")


def test_what_is_kept_comes_back_whole_in_part_and_in_pieces(objects: ObjectStore) -> None:
    content = bytes(range(256)) * (3 * PIECE_BYTES // 256)
    objects.put("logs/a/0/7", content)
    assert objects.get("logs/a/0/7") == content
    assert objects.get_range("logs/a/0/7", 5, 10) == content[5:15]
    assert objects.get_range("logs/a/0/7", len(content) - 3, 10) == content[-3:]
    assert objects.get_range("logs/a/0/7", len(content), 10) == b""
    pieces = list(objects.stream("logs/a/0/7"))
    assert b"".join(pieces) == content and len(pieces) > 1
    assert objects.size("logs/a/0/7") == len(content) and objects.exists("logs/a/0/7")


def test_pieces_and_files_are_put_as_bytes_are(objects: ObjectStore, tmp_path: Path) -> None:
    objects.put("uploads/c/d", iter([b"one ", b"two"]))
    assert objects.get("uploads/c/d") == b"one two"
    file = tmp_path / "content"
    file.write_bytes(b"from a file")
    objects.put("uploads/c/d", file)
    assert objects.get("uploads/c/d") == b"from a file"


def test_a_stream_that_breaks_leaves_what_was_there(objects: ObjectStore) -> None:
    objects.put("uploads/c/d", b"before")

    def broken() -> Iterator[bytes]:
        for _ in range(12):
            yield b"x" * PIECE_BYTES
        raise RuntimeError("the client went away")

    for key in ("uploads/c/d", "uploads/c/new"):
        with pytest.raises(RuntimeError, match="went away"):
            objects.put(key, broken())
    assert objects.get("uploads/c/d") == b"before"
    assert not objects.exists("uploads/c/new")
    assert [found.key for found in objects.list("uploads")] == ["uploads/c/d"]


def test_lists_by_whole_names_and_deletes_for_good(objects: ObjectStore) -> None:
    for key in ("logs/a/0/1", "logs/a/1/20", "logs/ab/0/1"):
        objects.put(key, key.encode())
    assert {(found.key, found.size_bytes) for found in objects.list("logs/a")} == {
        ("logs/a/0/1", 10),
        ("logs/a/1/20", 11),
    }
    objects.delete("logs/a/0/1")
    objects.delete("logs/a/0/1")
    assert not objects.exists("logs/a/0/1")
    for ask in (objects.get, objects.size, objects.stream, lambda key: objects.get_range(key, 0, 1)):
        with pytest.raises(NoSuchObject):
            ask("logs/a/0/1")
    assert list(objects.list("nothing")) == []


@given(
    key=st.one_of(
        st.text(), st.sampled_from(["", "/", "a//b", "a/", "/a", "../a", "a/../b", "a/.b", "a\n", "ä", "a#1"])
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_plain_names_are_keys(tmp_path: Path, key: str) -> None:
    objects = ObjectStore(Location((tmp_path / "objects").as_uri()))
    plain = all(part and part[0] not in ".-" and part.isascii() for part in key.split("/"))
    plain = plain and all(c.isalnum() or c in "._-/" for c in key)
    if plain:
        objects.put(key, b"")
    else:
        with pytest.raises(ValueError, match="no key"):
            objects.put(key, b"")


def test_a_directory_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir(mode=0o755)
    ObjectStore(Location((tmp_path / "objects").as_uri())).put("a/b", b"")
    assert stat.S_IMODE((tmp_path / "objects").stat().st_mode) == 0o700


@pytest.mark.parametrize("url", ["/var/objects", "file://host/var", "gs://bucket", "s3:///prefix", "s3://"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        ObjectStore(Location(url)).exists("a")


def test_a_store_that_does_not_answer_is_unavailable(s3_endpoint: str) -> None:
    missing = Location("s3://no-such-bucket", s3_endpoint, "us-east-1", "key", "secret")
    with pytest.raises(ObjectStoreUnavailable):
        ObjectStore(missing).put("a", b"")


def test_keys_of_an_s3_are_files_beside_the_other_secrets(tmp_path: Path) -> None:
    settings = Settings(database_url="postgresql://unused", secrets_dir=tmp_path, object_store_url="s3://b/p")
    assert location_of(settings) == Location("s3://b/p")
    (tmp_path / "object_store_access_key").write_text("AK\n")
    (tmp_path / "object_store_secret_key").write_text("SK\n")
    found = location_of(settings)
    assert (found.access_key, found.secret_key) == ("AK", "SK")
    assert "SK" not in repr(found)
