"""Prices of cloud servers, and the cost of an answer."""

from dataclasses import dataclass

MS_PER_HOUR = 3_600_000.0

PUBLISHED_USD_PER_HOUR = {"cloud-server": 0.68}
"""On-demand prices of catalogue devices. ``cloud-server`` is a c5.4xlarge: 0.68 USD an hour in US
East (Amazon EC2 Auto Scaling user guide, "Spot price per unit hour example", on-demand column)."""


def price_usd_per_hour(cloud_device: str, given: float | None) -> float | None:
    """Return the price of the scenario, else the published one; None: unknown."""
    return PUBLISHED_USD_PER_HOUR.get(cloud_device) if given is None else given


@dataclass(frozen=True)
class CloudCost:
    """US dollars of server time for 1,000 answers, without data traffic, storage and training.

    Attributes
    ----------
    busy : for computing time only (a lower bound).
    provisioned : idle time included, divided equally among the answers.
    """

    busy: float | None
    provisioned: float | None


def cost_per_1000(
    usd_per_hour: float | None, busy_ms: float, answers: int, idle_ms_per_answer: float
) -> CloudCost:
    """Return the cost of 1,000 answers.

    Parameters
    ----------
    usd_per_hour : price of one server, None: unknown.
    busy_ms : server time that these answers took.
    idle_ms_per_answer : idle time of all servers over all answers of the fleet.
    """
    if usd_per_hour is None or not answers:
        return CloudCost(None, None)
    busy = usd_per_hour * busy_ms / answers / MS_PER_HOUR * 1000.0
    return CloudCost(busy, busy + usd_per_hour * idle_ms_per_answer / MS_PER_HOUR * 1000.0)
