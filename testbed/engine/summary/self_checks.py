"""Self-checks of a run: what must hold whatever the results are."""

import math
from collections.abc import Iterator

import numpy as np

from testbed.engine.attacking.attacks import AttackResults
from testbed.engine.serving.serve import ServedArm
from testbed.engine.setting.run_context import RunInputs
from testbed.engine.summary.knowledge_check import more_knowledge
from testbed.engine.training.fleet import TrainedArm
from testbed.results.schema import AttackResult, BoundCheck, SelfCheck


def _check(arm: str, name: str, passed: bool, detail: str) -> SelfCheck:
    return SelfCheck(name=f"{arm}: {name}", passed=bool(passed), detail=detail)


def _bound_check_result(attacked: AttackResults) -> tuple[bool, str]:
    """Compare each attack's error on smoothed victims with the error bound that holds for them.

    The error is a mean over few images: only an error below the bound by more than three standard
    errors counts as beating it. The bound is itself a lower confidence limit.
    """
    reasons = sorted({bound.reason for bound in attacked.error_bounds if bound.reason})
    levels = {
        (bound.tier, level.replays): level.mse or 0.0
        for bound in attacked.error_bounds
        for level in bound.levels
        if not bound.reason
    }
    margins = []
    for attack in attacked.entries:
        for words, error in _bound_checks(attack):
            slack = 3.0 * (error.standard_error or 0.0)
            bound = levels[error.tier, attack.replays]
            ratio = (error.mse + slack) / bound if bound > 0.0 else math.inf
            margins.append((ratio, error.mse, words))
    sentences = [
        f"error bound {value:.2g} for tier '{tier}', {replays} release{'s' if replays > 1 else ''}"
        for (tier, replays), value in levels.items()
    ]
    if margins:
        _, mse, words = min(margins)
        sentences.append(f"nearest to it on images smoothed by N(0, 0.1^2): {words}, MSE {mse:.2g}")
    return all(ratio >= 1.0 for ratio, _, _ in margins), "; ".join([*sentences, *reasons])


def _bound_checks(attack: AttackResult) -> Iterator[tuple[str, BoundCheck]]:
    """Yield an attack's errors on smoothed victims, each with words for the attack."""
    words = f"{attack.attack} of {attack.adversary}"
    for error in attack.smoothed:
        yield words, error
    for cell in attack.transfer:
        for error in cell.smoothed:
            yield f"{words}, learned on tier '{cell.trained_on}'", error
    for point in attack.by_amount.points if attack.by_amount else []:
        for error in point.smoothed:
            yield f"{words}, with {point.share:g} of the amount", error


def _trained_by_devices(arm: TrainedArm) -> tuple[bool, str]:
    """Say in how many rounds each tier's front-end changed: none may keep its first weights."""
    rounds = arm.server.training.rounds  # those of the fleet
    if not rounds:
        return True, "the provider alone trains"
    used = {
        arm.server.tiers[tier].name: arm.server.tiers[tier].aggregated_rounds
        for tier in arm.models.used()
    }
    counts = ", ".join(f"{name} {count}" for name, count in used.items())
    return min(used.values()) > 0, f"rounds with updates, of {rounds}: {counts}"


def self_checks(
    arm: TrainedArm, served: ServedArm, attacked: AttackResults, inputs: RunInputs
) -> list[SelfCheck]:
    """Return the checks of one arm."""
    name = arm.models.arm
    ledger = arm.grid.ledger
    parts = inputs.data.parts
    everyone = [
        *(parts.training, parts.validation, parts.auxiliary),
        *(parts.auxiliary_validation, parts.victims),
    ]
    rows = np.concatenate(everyone)
    keys = [set(inputs.data.pool.content_keys[part].tolist()) for part in everyone]
    overlap = sum(len(keys[i] & keys[j]) for i in range(5) for j in range(i))
    statuses = {row["status"] for row in served.rows}
    fits = arm.grid.costs.serving_feasible
    raw = {row["request"]: row["device"] for row in served.rows if row["raw"]}
    attacked_raw = sum(1 for row in attacked.rows if row["request"] in raw)
    sent = sum(row["uplink_bytes"] for row in served.rows)
    charged = ledger.total("serve", "uplink_bytes")
    finite = all(
        np.isfinite(value).all()
        for tier in arm.server.tiers
        for value in (tensor.numpy() for tensor in tier.parameters.values())
    )
    bound_passed, bound_detail = _bound_check_result(attacked)
    adversaries = inputs.scenario.adversaries
    knowing, knowing_detail = more_knowledge(adversaries, attacked.entries, attacked.rows)
    trained, trained_detail = _trained_by_devices(arm)
    errors = [row["mse"] for row in attacked.rows]
    errors += [victim.mse for item in attacked.on_training for victim in item.by_victim]
    in_range = all(0.0 <= error <= 1.0 for error in errors)
    return [
        _check(
            name,
            "the five parts of the data are disjoint",
            len(np.unique(rows)) == len(rows) and overlap == 0,
            f"{len(rows)} images, {overlap} with equal content in two parts",
        ),
        _check(
            name,
            "every request has an outcome",
            statuses <= {"answered", "offline", "infeasible", "failed"},
            f"{len(served.rows)} requests: {', '.join(sorted(statuses))}",
        ),
        _check(
            name,
            "the ledger holds at least the bytes of all requests",
            charged >= sent,
            f"{charged:.0f} bytes charged, {sent} of them of requests",
        ),
        _check(
            name,
            "raw images come only from devices that the front-end does not fit, and no attack "
            "is scored by them",
            not any(fits[device] for device in raw.values()) and attacked_raw == 0,
            f"{len(raw)} raw images sent",
        ),
        _check(
            name,
            "every adversary intercepted something",
            not attacked.read_nothing,
            f"without an intercept: {', '.join(attacked.read_nothing) or 'none'}",
        ),
        _check(name, "devices trained the front-end of every tier", trained, trained_detail),
        _check(name, "the trained front-end is finite", finite, "no NaN or infinity"),
        _check(
            name,
            "training stayed finite",
            all(
                row["training_loss"] is None or np.isfinite(row["training_loss"])
                for row in arm.rounds
            ),
            f"{len(arm.rounds)} rounds",
        ),
        _check(
            name,
            "reconstruction errors are within [0, 1]",
            in_range,
            f"{len(errors)} scored reconstructions",
        ),
        _check(name, "no attack beats the reconstruction error bound", bound_passed, bound_detail),
        _check(name, "more knowledge never does worse", knowing, knowing_detail),
    ]
