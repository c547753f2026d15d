"""Models of availability: when a device can be reached."""

import math
from bisect import bisect_right
from typing import Annotated

from pydantic import Field

from testbed.core import seeds
from testbed.core.registries import AVAILABILITIES
from testbed.core.registry import Options

DAY_S = 86_400.0
Positive = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
DropOut = Annotated[
    float, Field(ge=0.0, lt=1.0, description="probability of failing on a message although online")
]


class Availability:
    """Always online; a model overrides ``online``.

    Models are built by ``AVAILABILITIES.create(name, options, fleet_size=N)``.
    """

    def __init__(self, options: Options, fleet_size: int) -> None:
        self.fleet_size = fleet_size

    def online(self, device: int, time_s: float, draw_key: int, seed: int) -> bool:
        """Say whether a device answers.

        Parameters
        ----------
        device : number of the device in the fleet.
        time_s : virtual time of the message; models of sessions look at it.
        draw_key : number of the round or request; memoryless models draw for each.
        seed : the scenario's seed.
        """
        return True


def drops_out(device: int, draw_key: int, seed: int, probability: float) -> bool:
    """Draw whether an online device fails on this message: app closed, battery, hand-over."""
    if probability == 0.0:
        return False
    rng = seeds.generator(seed, "availability-drop-out", device, draw_key)
    return bool(rng.random() < probability)


@AVAILABILITIES.register("always", "Every device always answers")
class Always(Availability):
    """Every device always answers."""


class BernoulliOptions(Options):
    """Options of ``bernoulli``."""

    probability: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95


@AVAILABILITIES.register(
    "bernoulli",
    "A device answers each message with a fixed probability",
    BernoulliOptions,
)
class Bernoulli(Availability):
    """Answers with a fixed probability, independently for each device and draw key."""

    def __init__(self, options: BernoulliOptions, fleet_size: int) -> None:
        super().__init__(options, fleet_size)
        self._probability = options.probability

    def online(self, device: int, time_s: float, draw_key: int, seed: int) -> bool:
        """Draw from the stream of (device, draw key); the time does not matter."""
        rng = seeds.generator(seed, "availability-bernoulli", device, draw_key)
        return bool(rng.random() < self._probability)


class DiurnalOptions(Options):
    """Options of ``diurnal``."""

    mean_online_s: Positive = Field(default=1800.0, description="mean length of an online period")
    online_sigma: Annotated[float, Field(ge=0.0)] = Field(
        default=1.0, description="lognormal sigma of the online periods"
    )
    online_share: Annotated[float, Field(gt=0.0, le=0.5)] = Field(
        default=0.3,
        description="mean share of devices online over a day, before drop-out",
    )
    propensity_sigma: Annotated[float, Field(ge=0.0, le=5.0)] = Field(
        default=0.5, description="lognormal sigma of how often devices are online"
    )
    phase_spread: Share = Field(
        default=1.0, description="share of the day over which the devices' phases are spread"
    )
    drop_out: DropOut = 0.0


@AVAILABILITIES.register(
    "diurnal", "Sessions of a two-state chain whose rate follows the day", DiurnalOptions
)
class Diurnal(Availability):
    """Online sessions whose frequency depends on the time of day (arXiv 2205.06730).

    A device i wants to be online with probability p_i(t) = q_i (0.5 + 0.4 sin(2 pi t / 24 h +
    phase_i)), q_i = min(1, a X_i), X lognormal. The factor a makes the mean of p_i(t) over devices
    and the day ``online_share``. It comes online at the rate lambda0 p / (1 - p) and stays for a
    lognormal period of mean 1 / lambda0, so that at every moment the chain pulls towards p_i(t).
    A trajectory depends on (seed, device) only, not on the order of queries or the rest of the
    fleet: the source's q_i = X_i / max X would make all devices of a larger fleet rarer online.
    """

    def __init__(self, options: DiurnalOptions, fleet_size: int) -> None:
        super().__init__(options, fleet_size)
        self._options = options
        self._factor = propensity_factor(options.online_share, options.propensity_sigma)
        self._trajectories: dict[tuple[int, int], _Trajectory] = {}

    def online(self, device: int, time_s: float, draw_key: int, seed: int) -> bool:
        """Look the time up in the device's sessions; the draw key decides on drop-out only."""
        if drops_out(device, draw_key, seed, self._options.drop_out):
            return False
        key = (seed, device)
        if key not in self._trajectories:
            propensity = self._propensity(device, seed)
            self._trajectories[key] = _Trajectory(self._options, propensity, device, seed)
        return self._trajectories[key].online(time_s)

    def _propensity(self, device: int, seed: int) -> float:
        rng = seeds.generator(seed, "availability-propensity", device)
        return min(1.0, self._factor * float(rng.lognormal(0.0, self._options.propensity_sigma)))


def propensity_factor(online_share: float, sigma: float) -> float:
    """Return a with E[min(1, a X)] / 2 = ``online_share``, for X lognormal(0, sigma).

    E[min(1, a X)] = a exp(sigma^2 / 2) Phi(-z - sigma) + Phi(z), z = ln(a) / sigma, rises with a.
    """
    mean = 2.0 * online_share  # of min(1, a X); over a day, the sine has the mean 0.5
    if sigma == 0.0 or mean == 1.0:
        return mean if sigma == 0.0 else math.inf

    def above(z: float) -> float:
        return math.erfc(z / math.sqrt(2.0)) / 2.0

    def reached(log_factor: float) -> float:
        z = log_factor / sigma
        return math.exp(log_factor + sigma**2 / 2.0) * above(z + sigma) + above(-z)

    low, high = math.log(mean) - sigma**2 / 2.0, 40.0 * sigma
    while high - low > 1e-12:
        middle = (low + high) / 2.0
        low, high = (middle, high) if reached(middle) < mean else (low, middle)
    return math.exp(high)


class _Trajectory:
    """The times at which one device changes state, extended on demand."""

    def __init__(self, options: DiurnalOptions, propensity: float, device: int, seed: int) -> None:
        self._rng = seeds.generator(seed, "availability-sessions", device)
        self._rate = 1.0 / options.mean_online_s
        self._sigma = options.online_sigma
        self._propensity = propensity
        spread = options.phase_spread * 2.0 * math.pi
        self._phase = float(self._rng.random()) * spread
        self._starts_online = bool(self._rng.random() < self.wanted(0.0))
        self._changes_s: list[float] = []
        self._now_s = 0.0
        self._online = self._starts_online

    def wanted(self, time_s: float) -> float:
        """Return p_i(t)."""
        daily = 0.5 + 0.4 * math.sin(2.0 * math.pi * time_s / DAY_S + self._phase)
        return self._propensity * daily

    def online(self, time_s: float) -> bool:
        while self._now_s <= time_s:
            if not self._online:
                self._now_s += self._wait_s()
            elif self._changes_s:
                self._now_s += self._online_period_s()
            else:
                self._now_s += self._rest_of_period_s()
            self._online = not self._online
            self._changes_s.append(self._now_s)
        return self._starts_online ^ (bisect_right(self._changes_s, time_s) % 2 == 1)

    def _online_period_s(self) -> float:
        # mean of a lognormal is exp(mu + sigma^2 / 2)
        mu = -math.log(self._rate) - self._sigma**2 / 2.0
        return float(self._rng.lognormal(mu, self._sigma))

    def _rest_of_period_s(self) -> float:
        """Draw what is left of the period that time 0 falls into.

        Long periods are hit more often: the density of their length is weighted by the length,
        which is lognormal again, with mu + sigma^2.
        """
        mu = -math.log(self._rate) + self._sigma**2 / 2.0
        return float(self._rng.random() * self._rng.lognormal(mu, self._sigma))

    def _wait_s(self) -> float:
        """Draw the wait for the next session by thinning (Lewis and Shedler 1979)."""
        highest = 0.9 * self._propensity
        ceiling = self._rate * highest / (1.0 - highest)
        waited_s = 0.0
        while True:
            waited_s += float(self._rng.exponential(1.0 / ceiling))
            wanted = self.wanted(self._now_s + waited_s)
            if self._rng.random() * ceiling < self._rate * wanted / (1.0 - wanted):
                return waited_s
