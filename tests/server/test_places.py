"""Training places by tier: as many as the tier's share of the devices, whatever can train."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.aggregation import Tier
from server.places import TrainingPlaces
from server.split_federated import SplitFederated
from testbed.core.errors import UserError
from testbed.core.registries import STRATEGIES
from testbed.scenario.training import TrainingSection

ALL = ((1, 1, 1), (1, 1, 1), (1, 1, 1))


def shares_of_places(devices, able, cohort, rounds=300, fits=ALL, seed=0):
    """Return each tier's share of all training places, and its share of the devices.

    Parameters
    ----------
    devices, able : of each tier, how many there are and how many of them can train their own.
    fits : [tier of the device][tier] whether it can train a tier's front-end.
    """
    tier_of, eligible = {}, []
    for tier, (count, enrolled) in enumerate(zip(devices, able, strict=True)):
        nodes = range(len(tier_of), len(tier_of) + count)
        tier_of |= dict.fromkeys(nodes, tier)
        eligible += list(nodes)[:enrolled]
    places = TrainingPlaces(
        np.array(eligible),
        tier_of,
        len(devices),
        lambda node, tier: bool(fits[tier_of[node]][tier]),
        seed,
    )
    rng, taken = np.random.default_rng(seed), np.zeros(len(devices))
    for server_round in range(1, rounds + 1):
        chosen = sorted(rng.choice(eligible, cohort, replace=False).tolist())
        trained = places.of(chosen, server_round)
        assert list(trained) == chosen
        taken += np.bincount(list(trained.values()), minlength=len(devices))
    return taken / taken.sum(), np.array(devices) / sum(devices), places


@pytest.mark.parametrize(
    ("devices", "able", "cohort"),
    [
        ((99, 1), (99, 0), 20),  # one microcontroller among a hundred devices
        ((90, 10), (90, 0), 20),
        ((40, 60), (40, 0), 7),
        ((80, 15, 5), (80, 0, 0), 20),
        ((50, 30, 20), (50, 30, 0), 12),
        ((60, 40), (60, 4), 16),  # a tenth of the second tier can train
        ((50, 50), (10, 50), 1),
        ((70, 30), (70, 30), 10),  # all can train
    ],
)
def test_a_tiers_share_of_places_is_its_share_of_the_devices(devices, able, cohort):
    places, shares, _ = shares_of_places(devices, able, cohort)
    # Which devices a cohort holds is drawn: two standard errors of a share over all places.
    errors = np.sqrt(shares * (1 - shares) / (300 * cohort))
    assert (np.abs(places - shares) < 0.002 + 2 * errors).all()


@pytest.mark.parametrize("cohort", [4, 20])
def test_a_few_rounds_already_come_close(cohort):
    rounds = 40 // cohort
    for seed in range(5):
        places, _, _ = shares_of_places((90, 10), (90, 0), cohort, rounds, seed=seed)
        assert places[1] * 40 == pytest.approx(4, abs=1)  # a tenth of forty places


def test_devices_train_their_own_tier_where_all_can():
    tier_of = {node: node % 2 for node in range(10)}
    places = TrainingPlaces(np.arange(10), tier_of, 2, lambda node, tier: True, 0)
    for server_round in range(20):
        assert places.of(range(10), server_round) == tier_of


def test_only_devices_that_can_hold_it_train_a_tier():
    # Tier 2 cannot train; tier 0 cannot hold its front-end, and tier 1 has the room.
    fits = ((1, 1, 0), (1, 1, 1), (0, 0, 0))
    places, shares, _ = shares_of_places((60, 30, 10), (60, 30, 0), 10, fits=fits)
    assert places[2] == pytest.approx(shares[2], abs=0.01)
    assert places[0] == pytest.approx(60 / 90, abs=0.02)  # it gives nothing


def test_a_tier_that_no_device_can_train_is_named():
    fits = ((1, 0), (0, 0))
    _, _, places = shares_of_places((5, 5), (5, 0), 3, fits=fits)
    assert places.untrained == [1]


def test_a_tier_that_no_device_can_train_is_refused_by_name():
    names = ["own", "narrow"]
    tiers = [Tier(STRATEGIES.create("fedavg", {}), {}, {}, {}, name) for name in names]
    server = SplitFederated(TrainingSection(), 0, None, tiers, {0: 0, 1: 0, 2: 1})
    server.eligible, server.can_train = np.arange(2), lambda node, tier: tier == 0
    with pytest.raises(UserError, match="no device can train the front-end of tier 'narrow'"):
        server.train(None, lambda record: None)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=2, max_size=3),
    st.integers(1, 12),
)
def test_any_fleet_shares_its_places(fleet, cohort):
    devices = [count for count, _ in fleet]
    able = [min(enrolled, count) for count, enrolled in fleet]
    if sum(able) < cohort:
        return
    places, shares, _ = shares_of_places(devices, able, cohort)
    np.testing.assert_allclose(places, shares, atol=0.01 + 2.5 / np.sqrt(300 * cohort))
