"""The comparison as ``compare.json`` and ``entries.csv`` (docs/compare.md)."""

from typing import Any

import numpy as np

from testbed.compare.analysis.attacks import Attacked
from testbed.compare.analysis.estimates import ArmEstimates
from testbed.compare.analysis.groups import Groups, GroupScore, group_names, relative_leakage
from testbed.compare.analysis.matched import Matched
from testbed.compare.analysis.pareto import Front
from testbed.compare.comparison import Comparison, Difference
from testbed.core.files import csv_text
from testbed.privacy.intervals import LEVEL
from testbed.results.figures import COST, LEAKAGE, Figure, shown_in

SCHEMA_VERSION = 2

Tree = dict[str, Any]


def document(comparison: Comparison) -> Tree:
    """Return the whole comparison as JSON but for its intervals; unknown numbers are None."""
    data, fleet = comparison.summary.data, comparison.summary.fleet
    reference = comparison.measured[comparison.reference]
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": [
            {
                "folder": run.name,
                "scenario": run.results.summary.scenario.name,
                "seed": run.seed,
                "testbed_version": run.results.summary.testbed_version,
                "arms": [arm.name for arm in run.results.arms],
            }
            for run in comparison.runs
        ],
        "seeds": comparison.seeds,
        "resampled": ["seed" if len(comparison.seeds) > 1 else "device"],
        "resamples": comparison.resamples,
        "level": LEVEL,
        "data": data.model_dump(include={"name", "image_shape", "num_classes"}),
        "devices": fleet.size,
        "reference": reference.arm.label,
        "max_accuracy_loss": comparison.max_accuracy_loss,
        "notes": list(comparison.notes),
        "entries": [
            _entry(item, difference)
            for item, difference in zip(comparison.measured, comparison.differences, strict=True)
        ],
        "pareto": [_front(front, comparison.labels) for front in comparison.fronts],
        "matched": [_matched(found) for found in comparison.matched],
        "tiers": _groups(comparison, comparison.tiers),
        "device_classes": _groups(comparison, comparison.classes),
    }


def table_csv(comparison: Comparison) -> str:
    """Return one line per entry: its facts, and each number with its interval."""
    rows = []
    for item in comparison.measured:
        arm, best = item.arm.first, item.best
        row: Tree = {
            "label": item.arm.label,
            "family": item.arm.family,
            "front_end": arm.front_end,
            "defence": arm.defence,
            "precision": arm.precision,
            "seeds": " ".join(map(str, item.arm.seeds)),
            "adversary": best.facts.adversary if best else None,
            "attack": best.facts.attack if best else None,
            "attack_failed": best.failed if best else None,
        }
        for figure in shown_in("compare"):
            shown = item[figure.key].shown
            row[figure.key] = shown.value
            row[f"{figure.key}_low"], row[f"{figure.key}_high"] = shown.low, shown.high
        rows.append(row)
    return csv_text(rows)


def _entry(item: ArmEstimates, difference: Difference | None) -> Tree:
    arm = item.arm.first
    return {
        "label": item.arm.label,
        "name": arm.name,
        "family": item.arm.family,
        "front_end": arm.front_end,
        "defence": arm.defence,
        "precision": arm.precision,
        "seeds": item.arm.seeds,
        "runs": [member.run.name for member in item.arm.members],
        "accuracy": item["accuracy"].shown,
        "best_attack": _attacked(item.best),
        "by_adversary": [_attacked(found) for found in item.attacks.by_adversary.values()],
        "leakage": _figures(item, LEAKAGE),
        "cost": _figures(item, COST),
        "to_reference": vars(difference) if difference else None,
    }


def _attacked(attacked: Attacked | None) -> Tree | None:
    if attacked is None:
        return None
    return {
        "adversary": attacked.facts.adversary,
        "attack": attacked.facts.attack,
        "threat_model": attacked.facts.threat_model,
        "mean_image_mse": attacked.mean_image_mse,
        "worse_than_mean_image": attacked.failed,
        **attacked.scores,
    }


def _figures(item: ArmEstimates, group: tuple[Figure, ...]) -> Tree:
    return {each.key: item[each.key].shown for each in shown_in("compare", group)}


def _front(front: Front, labels: list[str]) -> Tree:
    return {
        "name": front.trade_off.name,
        "x": front.trade_off.x.key,
        "y": front.trade_off.y.key,
        "better": {each.key: each.better for each in (front.trade_off.x, front.trade_off.y)},
        "front": [label for label, on in zip(labels, front.on_front, strict=True) if on],
        "share_of_resamples": {
            label: float(share) if np.isfinite(share) else None
            for label, share in zip(labels, front.share, strict=True)
        },
    }


def _matched(found: Matched) -> Tree:
    return {
        "accuracy": found.accuracy,
        "below_reference": found.below_reference,
        "families": [vars(ranked_defence) for ranked_defence in found.ranked_defences],
    }


def _groups(comparison: Comparison, groups: "Any") -> Tree:
    def entry(item: Groups) -> Tree:
        weakest = item.weakest
        return {
            "label": item.label,
            "weakest": weakest.group if weakest else None,
            "groups": [_group(score) for score in item.scores],
        }

    return {
        "names": group_names(groups),
        "relative_mse": relative_leakage(groups, comparison.measured),
        "entries": [entry(item) for item in groups],
    }


def _group(score: GroupScore) -> Tree:
    return {
        "group": score.group,
        "victims": score.victims,
        "adversary": score.attacked.facts.adversary,
        "attack": score.attacked.facts.attack,
        **score.attacked.scores,
        "to_mean": score.to_mean,
        "weakest_share": score.weakest_share,
    }
