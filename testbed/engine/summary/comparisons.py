"""Arms compared over the victims they share, by each adversary's best attack.

The unit is the victim's request, which is the same in every arm: differences are paired, and the
interval resamples devices before their images. Rows of several seeds may be given together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from testbed.privacy.intervals import hierarchical_interval
from testbed.scenario.schema import Scenario

SCORES = ("mse", "ssim", "reidentified")
Row = dict[str, Any]


def compare_arms(scenario: Scenario, entries: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Return the paired differences of every later arm from the first, per adversary.

    Parameters
    ----------
    entries : the arms of results.json.
    rows : rows of attacks.parquet.
    """
    if not entries:
        return []
    first, found = entries[0], []
    for arm in entries[1:]:
        for adversary in dict.fromkeys(item["adversary"] for item in arm["attacks"]):
            mine, theirs = best_of(arm, adversary), best_of(first, adversary)
            if mine is None or theirs is None:
                continue
            own = _by_request(rows, arm["name"], adversary, mine)
            reference = _by_request(rows, first["name"], adversary, theirs)
            shared = sorted(own.keys() & reference.keys())
            if shared:
                found.append(
                    {
                        "arm": arm["name"],
                        "reference": first["name"],
                        "adversary": adversary,
                        "attack": mine,
                        "reference_attack": theirs,
                        "victims": len(shared),
                        "devices": len({own[request]["device"] for request in shared}),
                        "difference": _differences(scenario, own, reference, shared),
                    }
                )
    return found


def best_of(arm: Row, adversary: str) -> str | None:
    """Return the attack of an adversary with the lowest MSE, anchors and inference apart."""
    scored = [
        (entry["scores"]["mse"]["value"], entry["attack"])
        for entry in arm["attacks"]
        if entry["adversary"] == adversary and not entry["is_anchor"] and entry["rebuilds_images"]
    ]
    return min(scored)[1] if scored else None


def _by_request(rows: Sequence[Row], arm: str, adversary: str, attack: str) -> dict[int, Row]:
    wanted = (arm, adversary, attack)
    return {
        row["request"]: row
        for row in rows
        if (row["arm"], row["adversary"], row["attack"]) == wanted
    }


def _differences(
    scenario: Scenario, own: Mapping[int, Row], reference: Mapping[int, Row], shared: Sequence[int]
) -> Row:
    devices = np.array([own[request]["device"] for request in shared])
    one_seed = np.zeros(len(shared), dtype=np.int64)
    resamples = scenario.evaluation.bootstrap_resamples
    return {
        score: hierarchical_interval(
            np.array([float(own[r][score]) - float(reference[r][score]) for r in shared]),
            [one_seed, devices],
            resamples,
            scenario.seed,
        ).as_dict()
        for score in SCORES
    }
