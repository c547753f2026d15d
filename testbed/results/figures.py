"""A run's headline figures as plain numbers: one row per arm, the same columns for every run.

For tables over many runs, and for tools that read columns; the report's own tables
(``headline.py``) hold the same figures as text.
"""

from testbed.results.findings import anchors, best_attack, chance, mse
from testbed.results.reading import Results
from testbed.results.schema import ArmResult, AttackResult, Interval

Value = str | float | int | None
MEAN_IMAGE = "mean_image"


def arm_figures(results: Results) -> list[dict[str, Value]]:
    """Return the headline figures of every arm; None where a figure is unknown.

    Shares are between 0 and 1. Privacy figures are those of the attack with the lowest mean squared
    error, of all adversaries; costs are per request, counts of training are device-rounds.
    """
    return [_figures(arm) for arm in results.arms]


def _figures(arm: ArmResult) -> dict[str, Value]:
    edge, serving, training = arm.edge, arm.serving, arm.training
    accuracy = arm.accuracy
    return {
        "arm": arm.name,
        "front_end": arm.front_end,
        "defence": arm.defence,
        **_interval("test_accuracy", accuracy.test if accuracy else None),
        "validation_accuracy": accuracy.final_validation if accuracy else None,
        **_privacy(arm),
        "macs": edge.macs if edge else None,
        "parameters": edge.parameters if edge else None,
        "feature_bytes": edge.feature_bytes if edge else None,
        "latency_median_ms": serving.latency_ms.median if serving else None,
        "latency_p95_ms": serving.latency_ms.p95 if serving else None,
        "energy_mj_per_request": serving.energy_mj_per_request if serving else None,
        "uplink_bytes_per_request": serving.uplink_bytes_per_request if serving else None,
        "answered": serving.answered if serving else None,
        "unanswered": serving.unanswered if serving else None,
        "training_uplink_bytes": training.uplink_bytes if training else None,
        "training_virtual_s": training.virtual_s if training else None,
        "stragglers": training.stragglers if training else None,
        "offline": training.offline if training else None,
        "failed": training.failed if training else None,
    }


def _privacy(arm: ArmResult) -> dict[str, Value]:
    best = best_attack(arm)
    scores = best.scores if best else None
    return {
        "best_attack": best.attack if best else None,
        "best_adversary": best.adversary if best else None,
        **_interval("mse", scores.mse if scores else None),
        "mean_image_mse": _mean_image_mse(arm, best),
        "psnr_db": scores.psnr_db.value if scores else None,
        "ssim": scores.ssim.value if scores else None,
        "reidentification": scores.reidentification.value if scores else None,
        "chance_reidentification": chance(best) if best else None,
    }


def _mean_image_mse(arm: ArmResult, best: AttackResult | None) -> float | None:
    """Return what showing the mean image scores on the victims of the best attack."""
    if best is None:
        return None
    found = (mse(anchor) for anchor in anchors(arm, best.adversary) if anchor.attack == MEAN_IMAGE)
    return next(found, None)


def _interval(name: str, interval: Interval | None) -> dict[str, Value]:
    return {
        name: interval.value if interval else None,
        f"{name}_low": interval.low if interval else None,
        f"{name}_high": interval.high if interval else None,
    }
