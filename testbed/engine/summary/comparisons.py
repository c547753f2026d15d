"""Arms compared over the victims they share, by each adversary's best attack.

The unit is the victim's request, which is the same in every arm: differences are paired. Requests
of one device belong together, and so do images of one person: the interval is the wider of the two.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from testbed.adversaries.base import IntArray
from testbed.privacy.intervals import (
    Clusters,
    Interval,
    Values,
    mean_interval,
    share_difference_interval,
)
from testbed.results.columns import Record
from testbed.results.figures import SCORE_COLUMNS
from testbed.results.schema import ArmComparison, ArmResult, AttackResult, Differences
from testbed.scenario.schema import Scenario


def compare_arms(
    scenario: Scenario,
    arms: Sequence[ArmResult],
    rows: Sequence[Record],
    persons: IntArray | None = None,
) -> list[ArmComparison]:
    """Return the paired differences of every later arm from the first, per adversary.

    Parameters
    ----------
    rows : rows of attacks.parquet.
    persons : who is pictured, by image; None where the data has no persons.
    """
    comparisons = []
    for arm in arms[1:]:
        for adversary in dict.fromkeys(attack.adversary for attack in arm.attacks):
            best, best_of_first = arm.best_attack(adversary), arms[0].best_attack(adversary)
            if best is None or best_of_first is None:
                continue
            own = _by_request(rows, arm, best)
            reference = _by_request(rows, arms[0], best_of_first)
            shared = sorted(own.keys() & reference.keys())
            if shared:
                comparisons.append(
                    ArmComparison(
                        arm=arm.name,
                        reference=arms[0].name,
                        adversary=adversary,
                        attack=best.attack,
                        reference_attack=best_of_first.attack,
                        victims=len(shared),
                        devices=len({own[request]["device"] for request in shared}),
                        difference=_differences(scenario, own, reference, shared, persons),
                    )
                )
    return comparisons


def _by_request(rows: Sequence[Record], arm: ArmResult, attack: AttackResult) -> dict[int, Record]:
    wanted = (arm.name, attack.adversary, attack.attack)
    return {
        row["request"]: row
        for row in rows
        if (row["arm"], row["adversary"], row["attack"]) == wanted
    }


def _differences(
    scenario: Scenario,
    own: Mapping[int, Record],
    reference: Mapping[int, Record],
    shared: Sequence[int],
    persons: IntArray | None,
) -> Differences:
    clusterings: list[Clusters] = [np.array([own[request]["device"] for request in shared])]
    if persons is not None:
        clusterings.append(persons[[own[request]["victim"] for request in shared]])
    several: list[Clusters | None] = [c for c in clusterings if len(np.unique(c)) > 1]

    def interval(score: str) -> Interval:
        values = np.array([float(own[r][score]) - float(reference[r][score]) for r in shared])
        found = [_interval(scenario, score, values, clusters) for clusters in several or [None]]
        return max(found, key=lambda item: (item.high or 0.0) - (item.low or 0.0))

    return Differences.model_validate(
        {score: interval(score) for score in Differences.model_fields}
    )


def _interval(
    scenario: Scenario, score: str, values: Values, clusters: Clusters | None
) -> Interval:
    if SCORE_COLUMNS[score].is_share:
        return share_difference_interval(values, clusters)
    resamples = scenario.evaluation.bootstrap_resamples
    return mean_interval(values, resamples, scenario.seed, clusters=clusters, difference=True)
