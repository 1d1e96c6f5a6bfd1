"""Names of GPU models: who matches whom, and what is left of a request's alternatives in a pool of one model."""

import itertools

import pytest

from scheduler.gpu_model import matches, narrowed

A100, SMALL_A100 = "NVIDIA A100-SXM4-80GB", "NVIDIA A100-PCIE-40GB"
H100 = "NVIDIA H100 80GB HBM3"
KNOWN = [A100, SMALL_A100, H100]


@pytest.mark.parametrize(
    ("requested", "pool", "left"),
    [
        ([], "A100", ["A100"]),
        (["A100"], "A100", ["A100"]),
        (["nvidia a100"], "A100", ["nvidia a100"]),
        (["A100-80GB"], "A100", ["A100-80GB"]),
        ([A100], "A100", [A100]),
        (["A100"], "A100-80GB", ["A100-80GB"]),
        (["A100", "80GB"], "A100-80GB", ["A100-80GB"]),
        (["H100"], "A100", []),
        (["H100", "A100-80GB"], "A100", ["A100-80GB"]),
        (["A100-40GB"], "A100-80GB", []),
        (["80GB"], "A100", ["80GB-A100"]),
        (["SXM4"], "A100-80GB", ["SXM4-A100-80GB"]),
        (["A100-SXM4"], "A100-80GB", ["A100-SXM4-80GB"]),
        (["HBM3"], "A100", []),
        (["NVIDIA"], "A100", []),
    ],
)
def test_what_is_left_in_a_pool(requested: list[str], pool: str, left: list[str]) -> None:
    assert narrowed(requested, pool, known=KNOWN) == tuple(left)
    if left:
        assert narrowed(left, pool, known=KNOWN) == tuple(left), "once is enough"


def test_what_is_left_takes_the_devices_that_both_take() -> None:
    names = ["A100", "80GB", "A100-80GB", "SXM4", "PCIE", "H100", "H100 80GB", "HBM3", A100, H100, "NVIDIA"]
    for requested in itertools.chain(itertools.combinations(names, 1), itertools.combinations(names, 2)):
        for pool in names[:-1]:
            left = narrowed(requested, pool, known=KNOWN)
            for model in KNOWN:
                both = matches(pool, model) and any(matches(each, model) for each in requested)
                assert any(matches(each, model) for each in left) is both, (requested, pool, left, model)
