"""Sums over devices by shards: the mean and the spread of an independent, slow reference."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from testbed.wire.protocol import ARRAYS, STATISTICS
from testbed.wire.sums import add_up, combined, shard_numbers

SHAPES = {"weight": (3, 4), "bias": (3,), "scalar": ()}


def devices(count, centre=0.0):
    rng = np.random.default_rng(count)
    made = []
    for _ in range(count):
        arrays = {n: np.float32(centre + rng.normal(size=s)) for n, s in SHAPES.items()}
        statistics = {"running_mean": np.float32(centre + rng.normal(size=5))}
        made.append(
            {
                name: ArrayRecord({key: Array(np.asarray(value)) for key, value in part.items()})
                for name, part in ((ARRAYS, arrays), (STATISTICS, statistics))
            }
        )
    return made, rng.integers(1, 200, count).tolist()


def by_shards(made, weights, size):
    starts = range(0, len(made), size)
    return combined([add_up(made[s : s + size], weights[s : s + size]) for s in starts])


@pytest.mark.parametrize("size", [1, 3, 7, 100])
@pytest.mark.parametrize("centre", [0.0, 1e6])
def test_mean_and_spread_equal_the_reference(size, centre):
    made, weights = devices(23, centre)
    sums = by_shards(made, weights, size)
    total = float(sum(weights))
    assert sums.weight == total
    for record in (ARRAYS, STATISTICS):
        for name, mean in sums.mean(record).items():
            values = [device[record][name].numpy().astype(np.float64) for device in made]
            expected = sum(w * value for w, value in zip(weights, values, strict=True)) / total
            assert mean.dtype == np.float32
            assert mean.shape == expected.shape
            assert np.array_equal(mean, expected.astype(np.float32))  # rounded once
            if record == STATISTICS:
                spread = sum(
                    w * (value - expected) ** 2 for w, value in zip(weights, values, strict=True)
                )
                np.testing.assert_allclose(sums.spread(name), spread / total, rtol=1e-9)
    assert sums.mean("moments") == {}


def test_the_mean_of_one_device_is_what_it_sent():
    made, _ = devices(1)
    sums = combined([add_up(made, [17])])
    for name, mean in sums.mean(ARRAYS).items():
        assert np.array_equal(mean, made[0][ARRAYS][name].numpy())
    assert not sums.spread("running_mean").any()


def test_devices_are_sharded_in_the_order_of_nodes():
    assert shard_numbers([9, 2, 7, 4, 2], 2) == {2: 0, 4: 0, 7: 1, 9: 1}
