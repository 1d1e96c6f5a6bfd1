"""Label conditions: what is understood, what is refused with which words, and that writing and reading agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.demand import Operator, Selector
from scheduler.selectors import SelectorError, parse, write

EU = {"region": "eu", "nvlink": "true", "zone": "a", "mem": "80"}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("region=eu", True), ("region == eu", True), ("region=us", False), ("region!=us", True), ("region!=eu", False),
        ("nvlink", True), ("spot", False), ("!spot", True), ("! nvlink", False), ("zone in (a,b)", True),
        ("zone in (b, c)", False), ("zone notin (a)", False), ("zone notin(b)", True), ("rack notin (1)", True),
        ("mem>40", True), ("mem > 80", False), ("mem<81", True), ("region>1", False), ("rack>0", False),
        ("region=eu,nvlink=true", True), ("zone in (a,b),mem>40,!spot", True), ("zone in (a,b),mem>400", False),
        ("region=", False), ("inside", False),
    ],
)  # fmt: skip
def test_conditions(text: str, holds: bool) -> None:
    assert all(selector.matches(EU) for selector in parse(text)) is holds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'': '' is no label"),
        ("region=eu,", "'': '' is no label"),
        ("re gion=eu", "'re gion=eu': 're gion' is no label"),
        ("=eu", "'=eu': '' is no label"),
        ("zone in a,b", "'zone in a': 'a' is no list of values in parentheses, as in 'zone in (a,b)'"),
        ("zone in ()", "'zone in ()': '()' is no list"),
        ("zone in (a", "'zone in (a': its parentheses are not in pairs"),
        ("zone in a)", "its parentheses are not in pairs"),
        ("nvlink,mem>big", "'mem>big': 'big' is no whole number"),
        ("mem<1.5", "'mem<1.5': '1.5' is no whole number"),
        ("a=b=c", "'a=b=c': 'b=c' can't be the value of a label"),
        ("zone in (a,b*)", "'zone in (a,b*)': 'b*' can't be the value of a label"),
        ("!", "'!': '' is no label"),
        ("x" * 64, "is no label"),
    ],
)
def test_what_is_not_understood_is_named(text: str, said: str) -> None:
    with pytest.raises(SelectorError) as refused:
        parse(text)
    assert said in str(refused.value)


labels = st.from_regex(r"[a-z0-9][a-z0-9._/-]{0,10}", fullmatch=True).filter(lambda label: label not in ("in", "notin"))
values = st.from_regex(r"[a-z0-9._/-]{1,10}", fullmatch=True)
several = st.tuples(values, values)
selectors = st.one_of(
    st.builds(Selector, labels, st.sampled_from([Operator.IN, Operator.NOT_IN]), st.one_of(st.tuples(values), several)),
    st.builds(Selector, labels, st.sampled_from([Operator.EXISTS, Operator.ABSENT])),
    st.builds(
        Selector,
        labels,
        st.sampled_from([Operator.GREATER, Operator.LESS]),
        st.tuples(st.integers(-(10**17), 10**17).map(str)),
    ),
)


@given(st.lists(selectors, min_size=1, max_size=4))
def test_what_is_written_reads_the_same(wanted: list[Selector]) -> None:
    assert parse(",".join(write(selector) for selector in wanted)) == tuple(wanted)
