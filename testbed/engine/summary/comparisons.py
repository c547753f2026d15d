"""Arms compared over the victims they share, by each adversary's best attack.

The unit is the victim's request, which is the same in every arm: differences are paired, and the
interval resamples devices before their images. Rows of several seeds may be given together.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from testbed.privacy.intervals import hierarchical_interval
from testbed.results.columns import Record
from testbed.results.schema import ArmComparison, ArmResult, AttackResult, Differences
from testbed.scenario.schema import Scenario


def compare_arms(
    scenario: Scenario, arms: Sequence[ArmResult], rows: Sequence[Record]
) -> list[ArmComparison]:
    """Return the paired differences of every later arm from the first, per adversary.

    Parameters
    ----------
    rows : rows of attacks.parquet.
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
                        difference=_differences(scenario, own, reference, shared),
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
) -> Differences:
    devices = np.array([own[request]["device"] for request in shared])
    resamples = scenario.evaluation.bootstrap_resamples
    return Differences.model_validate(
        {
            score: hierarchical_interval(
                np.array([float(own[r][score]) - float(reference[r][score]) for r in shared]),
                devices,
                resamples,
                scenario.seed,
            )
            for score in Differences.model_fields
        }
    )
