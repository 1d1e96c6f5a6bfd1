"""Scores that are remembered are those that scoring would give."""

import random

import numpy as np
import pytest

from scheduler.cluster.claims import Claim, Claims, Key
from scheduler.cluster.pools import Pools
from scheduler.cluster.scores import Scores
from scheduler.demand import Demand
from scheduler.packing.scoring import PackingPolicy, make_scoring
from scheduler.views import Part
from tests.unit.small_clusters import A100, HALF, ONE, TWO, host


@pytest.mark.parametrize("policy", [PackingPolicy.BEST_FIT, PackingPolicy.FRAGMENTATION])
def test_a_host_as_free_as_another_was_scores_the_same(policy: PackingPolicy) -> None:
    pools = Pools()
    for view in (host(number, *[A100] * 4) for number in (1, 2, 3)):
        pools.set_host(view)
    scoring = make_scoring(policy)
    for shape in (ONE, TWO, ONE, HALF):
        scoring.observe(shape)
    claims, remembered = Claims(pools), Scores(pools, scoring)
    for host_id in pools.rows:
        claims.changed(host_id)
    draw = random.Random(7)
    for _ in range(60):
        host_id = draw.choice(sorted(pools.rows))
        devices = tuple((device.gpu_id, 1000) for device in pools.pool(pools.rows[host_id][0]).devices)
        taken = tuple(draw.sample(devices, draw.randint(1, len(devices))))
        claim = Claim.of(Demand(ONE), 1, [Part(host_id, taken)]) if draw.random() < 0.7 else None
        claims.set(Key(draw.randint(1, 4)), claim)
        claims.flush()
        for shape in (ONE, TWO):
            fresh = Scores(pools, scoring).best(shape, None)
            found = remembered.best(shape, None)
            assert np.array_equal(found.score, fresh.score) and np.array_equal(found.device, fresh.device)
