"""Durations, sizes and arrays as people write them."""

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.tasks.array import ARRAY, MAX_ELEMENTS, Array, parse_array
from api.tasks.units import DURATION, SIZE, duration_s, milli, size_bytes
from remotegpu.cli.units import parse_duration, parse_memory

PIECES = st.lists(st.sampled_from(["0", "7", "12", "-", ",", "%", "s", "h", "G", "iB", "B", " ", ".", "\n", "x", "٣"]))


@pytest.mark.parametrize(
    ("text", "length"),
    [("60s", 60), ("6h", 21_600), ("1h30m", 5400), ("2d", 172_800), ("1w", 604_800), ("0s", 0), ("30m1h", 5400)],
)
def test_a_duration(text: str, length: int) -> None:
    assert duration_s(text) == length


@pytest.mark.parametrize("text", ["", "60", "s", "1.5h", "-1s", "1 h", "1h 30m", "60s\n", "1H", "1ms", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no length of time; write for example 90s"):
        duration_s(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("32GB", 32 * 10**9), ("8GiB", 8 * 2**30), ("8G", 8 * 2**30), ("1.5KB", 1500), ("1.5KiB", 1536), ("7B", 7),
        ("2TB", 2 * 10**12), ("2 MiB", 2**21), ("0.1B", 0), ("3gb", 3 * 10**9), ("3gib", 3 * 2**30),
    ],
)  # fmt: skip
def test_a_size(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "32", "GB", "-1GB", "1,5GB", "1.GB", "32XB", "32GBB", "1e3GB", "8GiB\n", "8iB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no size; write for example 32GB \(powers of ten\) or 32GiB"):
        size_bytes(text)


@settings(deadline=None)
@given(st.from_regex(SIZE, fullmatch=True), st.from_regex(DURATION, fullmatch=True))
def test_the_command_line_reads_them_alike(size: str, duration: str) -> None:
    assert size_bytes(size) == parse_memory(size)
    assert duration_s(duration) == parse_duration(duration)


def test_thousandths() -> None:
    assert [milli(number) for number in (8, 0.5, 0.46, 0.001, 1023.999)] == [8000, 500, 460, 1, 1_023_999]
    with pytest.raises(ValueError, match=r"0\.0005 is finer than a thousandth"):
        milli(0.0005)


@pytest.mark.parametrize(
    ("text", "ranges", "at_once"),
    [
        ("0-9", ((0, 9),), None),
        ("0-99%5", ((0, 99),), 5),
        ("1,3,5-7", ((1, 1), (3, 3), (5, 7)), None),
        ("7-8,1-3,4", ((1, 4), (7, 8)), None),
        ("5", ((5, 5),), None),
        (f"0-{MAX_ELEMENTS - 1}", ((0, MAX_ELEMENTS - 1),), None),
    ],
)
def test_an_array(text: str, ranges: tuple[tuple[int, int], ...], at_once: int | None) -> None:
    assert parse_array(text) == Array(ranges, at_once)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no array; write for example 0-9"),
        ("1-", "is no array"),
        ("a-b", "is no array"),
        ("0-9%", "is no array"),
        ("-3", "is no array"),
        ("1,,2", "is no array"),
        ("0-9\n", "is no array"),
        ("0-9%0", "none at once would never start"),
        ("9-0", "'9-0' runs backwards; write 0-9"),
        ("1-5,3", "names 3 twice"),
        ("3,1-5", "names 3 twice"),
        ("1-5,5", "names 5 twice"),
        (f"0-{MAX_ELEMENTS}", f"has {MAX_ELEMENTS + 1} elements; an array has at most {MAX_ELEMENTS}"),
        ("0-999999999", "has 1000000000 elements"),
    ],
)
def test_what_is_no_array(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_array(text)


@settings(deadline=None)
@given(st.sets(st.integers(0, 300), min_size=1), st.randoms(use_true_random=False))
def test_an_array_has_the_elements_that_it_names(indices: set[int], chance: random.Random) -> None:
    listed = sorted(indices)
    chance.shuffle(listed)
    array = parse_array(",".join(map(str, listed)))
    assert list(array) == sorted(indices)
    assert len(array) == len(indices)
    written = ",".join(f"{first}-{last}" for first, last in array.ranges)
    assert parse_array(written) == array
    assert all(before[1] + 1 < after[0] for before, after in pairwise(array.ranges))


@settings(deadline=None)
@given(PIECES.map("".join))
def test_nothing_else_is_raised_and_the_patterns_say_what_is_refused(text: str) -> None:
    for pattern, parse in ((ARRAY, parse_array), (DURATION, duration_s), (SIZE, size_bytes)):
        try:
            parse(text)
        except ValueError:
            continue
        assert re.search(pattern, text)
