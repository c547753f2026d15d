"""Properties of the split."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from testbed.core.errors import UserError
from testbed.data.splits import PART_NAMES, shared_test_images, split
from testbed.scenario.schema import Splits

CASES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
EVEN = Splits(training=0.2, validation=0.2, auxiliary=0.2, auxiliary_validation=0.2, victims=0.2)


@CASES
@given(
    count=st.integers(60, 300),
    distinct=st.integers(20, 300),
    persons=st.sampled_from(["none", "other", "labels"]),
    official=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)
def test_parts_never_share_image_content_or_person(
    make_pool, assert_disjoint, count, distinct, persons, official, seed
):
    rng = np.random.default_rng([count, distinct])
    labels = rng.integers(0, 12, count)
    pool = make_pool(
        labels,
        {"none": None, "other": rng.integers(0, 15, count), "labels": labels}[persons],
        rng.random(count) < 0.3 if official else None,
        rng.integers(0, distinct, count),
    )
    try:
        parts = split(pool, EVEN, seed)
    except UserError:
        assume(False)
    assert_disjoint(pool, parts)
    for name in PART_NAMES:
        rows = getattr(parts, name)
        assert np.array_equal(rows, np.sort(rows))
    if official:
        assert pool.official_test[parts.victims].all()
        assert not pool.official_test[parts.training].any()


def rows_to_part(pool, parts):
    part_of = {}
    for name in PART_NAMES:
        part_of.update(dict.fromkeys(map(int, pool.content_keys[getattr(parts, name)]), name))
    return part_of


def test_order_of_rows_and_other_images_do_not_matter(make_pool):
    keys = np.random.default_rng(0).integers(0, 2**63, 400)
    labels = np.arange(400) % 5
    shuffled = np.random.default_rng(1).permutation(400)
    whole = make_pool(labels, content_keys=keys)
    mixed = make_pool(labels[shuffled], content_keys=keys[shuffled])
    fewer = make_pool(labels[:200], content_keys=keys[:200])
    expected = rows_to_part(whole, split(whole, EVEN, 7))
    assert rows_to_part(mixed, split(mixed, EVEN, 7)) == expected
    for key, part in rows_to_part(fewer, split(fewer, EVEN, 7)).items():
        assert expected[key] == part
    assert rows_to_part(whole, split(whole, EVEN, 8)) != expected


def test_shares_are_met(make_pool):
    pool = make_pool(np.arange(20_000) % 10)
    shares = Splits()
    parts = split(pool, shares, 0)
    for name, size in parts.sizes().items():
        assert size / len(pool) == pytest.approx(getattr(shares, name), abs=0.01)
    assert sum(parts.sizes().values()) == len(pool)


def test_official_test_decides_the_victims_and_their_number(make_pool):
    official = np.arange(20_000) % 5 == 0
    pool = make_pool(np.arange(20_000) % 10, official_test=official)
    shares = Splits()
    sizes = split(pool, shares, 0).sizes()
    assert sizes["victims"] / len(pool) == pytest.approx(shares.victims, abs=0.01)
    expected = shares.training / (1 - shares.victims) * 0.8
    assert sizes["training"] / len(pool) == pytest.approx(expected, abs=0.01)


def test_a_victim_that_is_also_a_training_image_is_dropped(make_pool):
    keys = np.concatenate([np.arange(1000), np.arange(1000)])
    official = np.arange(2000) >= 1000
    keys[1900:] += 10_000  # only these test images are new
    pool = make_pool(np.arange(2000) % 10, official_test=official, content_keys=keys)
    parts = split(pool, EVEN, 0)
    assert 0 < len(parts.victims) <= 100
    assert parts.victims.min() >= 1900


def test_forty_persons_fill_every_part_under_every_seed(make_pool):
    persons = np.arange(400) // 10
    pool = make_pool(persons, persons)
    for seed in range(50):
        parts = split(pool, Splits(), seed)
        assert len(np.unique(persons[parts.auxiliary])) >= 6
        assert len(np.unique(persons[parts.auxiliary_validation])) >= 1


def test_an_empty_part_says_why(make_pool):
    labels, test = np.arange(400) % 3, np.arange(400) >= 200
    keys = np.arange(400) % 200
    with pytest.raises(UserError, match=r"victims.* also in the training files.*test_split to nul"):
        split(make_pool(labels, official_test=test, content_keys=keys), Splits(), 0)
    with pytest.raises(UserError, match=r"400 images in all, 4 of them different, not split by"):
        split(make_pool(labels, content_keys=keys % 4), Splits(), 0)
    with pytest.raises(UserError, match=r"3 persons\).*use more persons"):
        split(make_pool(labels, np.arange(400) // 2 % 3), Splits(), 0)


@pytest.mark.parametrize("by_person", [False, True])
def test_test_images_that_are_elsewhere_are_counted(make_pool, by_person):
    test = np.arange(400) >= 300
    shared = np.where(np.arange(400) < 340, np.arange(400) % 300, np.arange(400))
    keys, persons = (None, shared) if by_person else (shared, None)
    pool = make_pool(np.arange(400) % 3, persons, test, keys)
    even = dict.fromkeys(PART_NAMES[1:4], 0.15)
    parts = split(pool, Splits(training=0.3, victims=0.25, **even), 0)
    assert shared_test_images(pool, parts) == 40
    assert len(parts.victims) == 60  # all that remain
    assert not shared_test_images(make_pool(np.arange(400) % 3), parts)


def test_an_empty_part_is_named(make_pool):
    with pytest.raises(UserError, match=r"data\.splits\.\w+: this part of made is empty"):
        split(make_pool(np.arange(4)), Splits(), 0)
