"""Availability models: rates, determinism, independence of the order of queries."""

import numpy as np
import pytest
from pydantic import ValidationError

from testbed.core.registries import AVAILABILITIES
from testbed.fleet.availability import propensity_factor

DAY_S = 86_400.0


def test_bernoulli_rate_and_determinism() -> None:
    model = AVAILABILITIES.create("bernoulli", {"probability": 0.7}, fleet_size=50)
    answers = [model.online(d, 0.0, key, 3) for d in range(50) for key in range(40)]
    assert np.mean(answers) == pytest.approx(0.7, abs=0.04)
    again = [model.online(d, 99.0, key, 3) for d in range(50) for key in range(40)]
    assert again == answers
    other_seed = [model.online(d, 0.0, key, 4) for d in range(50) for key in range(40)]
    assert other_seed != answers


def test_bernoulli_default() -> None:
    assert AVAILABILITIES.options("bernoulli", {}).model_dump() == {"probability": 0.95}
    with pytest.raises(ValidationError):
        AVAILABILITIES.options("bernoulli", {"probability": 1.5})


def test_always() -> None:
    model = AVAILABILITIES.create("always", {}, fleet_size=2)
    assert all(model.online(device, 1e9, 7, 0) for device in range(2))


def test_diurnal_follows_the_day() -> None:
    options = {
        "propensity_sigma": 0.0,
        "mean_online_s": 600.0,
        "phase_spread": 0.0,
        "online_share": 0.5,
    }
    model = AVAILABILITIES.create("diurnal", options, fleet_size=300)

    def share(time_s: float) -> float:
        return float(np.mean([model.online(d, time_s, 0, 1) for d in range(300)]))

    # without spread of phases all devices peak at 6 h (0.9), with the minimum at 18 h (0.1)
    assert share(DAY_S / 4) == pytest.approx(0.9, abs=0.07)
    assert share(3 * DAY_S / 4) == pytest.approx(0.1, abs=0.07)
    assert share(2.0 * DAY_S) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.3, 0.45, 0.49])
def test_the_propensity_factor_gives_the_share(share: float, sigma: float) -> None:
    z = np.linspace(-12.0, 12.0, 200_001)
    density = np.exp(-(z**2) / 2.0) / np.sqrt(2.0 * np.pi)
    capped = np.minimum(1.0, propensity_factor(share, sigma) * np.exp(sigma * z))
    assert 0.5 * np.trapezoid(capped * density, z) == pytest.approx(share, rel=1e-6)


def test_the_largest_share_leaves_no_differences() -> None:
    assert propensity_factor(0.5, 1.0) == np.inf
    model = AVAILABILITIES.create("diurnal", {"online_share": 0.5}, fleet_size=4)
    assert model.online(0, 0.0, 0, 0) in (True, False)
    with pytest.raises(ValidationError):
        AVAILABILITIES.options("diurnal", {"online_share": 0.51})


@pytest.mark.parametrize("devices", [12, 100, 2_000])
def test_the_share_online_does_not_depend_on_the_size_of_the_fleet(devices: int) -> None:
    """Relative to the most available device, 12 devices had a share of 0.26, 10,000 of 0.08."""
    model = AVAILABILITIES.create("diurnal", {}, fleet_size=devices)
    seeds = range(max(1, 2_000 // devices))
    online = [model.online(d, 43_200.0, 0, seed) for seed in seeds for d in range(devices)]
    assert np.mean(online) == pytest.approx(0.3, abs=4.0 * np.sqrt(0.21 / 2_000))


def test_a_device_does_not_depend_on_the_rest_of_the_fleet() -> None:
    times = [float(t) for t in range(0, 200_000, 5_000)]
    small = AVAILABILITIES.create("diurnal", {}, fleet_size=4)
    large = AVAILABILITIES.create("diurnal", {}, fleet_size=10_000)
    assert [small.online(3, t, 0, 7) for t in times] == [large.online(3, t, 0, 7) for t in times]


def test_the_share_online_is_the_same_from_the_start() -> None:
    """Long periods are under way at time 0; without them the share would fall by a third."""
    options = {"mean_online_s": 5_000.0, "online_sigma": 1.5}
    model = AVAILABILITIES.create("diurnal", options, fleet_size=3_000)
    for time_s in (0.0, 1_000.0, 4_000.0, 12_000.0):
        share = np.mean([model.online(d, time_s, 0, 1) for d in range(3_000)])
        assert share == pytest.approx(0.3, abs=4.0 * np.sqrt(0.21 / 3_000))


def test_diurnal_does_not_depend_on_the_order_of_queries() -> None:
    times = [float(t) for t in range(0, 200_000, 7_000)]
    forward = AVAILABILITIES.create("diurnal", {}, fleet_size=5)
    backward = AVAILABILITIES.create("diurnal", {}, fleet_size=5)
    asked = [[forward.online(d, t, 0, 9) for t in times] for d in range(5)]
    reverse = [
        [backward.online(d, t, 1, 9) for t in reversed(times)][::-1] for d in (4, 3, 2, 1, 0)
    ]
    assert asked == reverse[::-1]


def test_diurnal_sessions_have_the_asked_mean() -> None:
    options = {"mean_online_s": 1000.0, "online_sigma": 0.5, "propensity_sigma": 0.0}
    model = AVAILABILITIES.create("diurnal", options, fleet_size=20)
    step_s, lengths = 20.0, []
    for device in range(20):
        states = [model.online(device, t * step_s, 0, 2) for t in range(8000)]
        changes = np.flatnonzero(np.diff(np.array(states, dtype=int)))
        runs = np.diff(changes) * step_s
        lengths += [run for run, start in zip(runs, changes, strict=False) if states[start + 1]]
    assert np.mean(lengths) == pytest.approx(1000.0, rel=0.06)
