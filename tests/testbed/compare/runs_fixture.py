"""Writes results folders (docs/results.md) whose comparison has known answers.

``PYTHONPATH=.:tests python tests/testbed/compare/runs_fixture.py FOLDER`` writes three seeds.
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from small import write_results, write_rows

from testbed.results.figures import SCORE_COLUMNS

DEVICES = 20
REQUESTS = 10  # of every device
CLASSES = ("microcontroller", "phone", "sbc", "sbc")  # of devices 0, 1, 2, 3, 4 (again), ...
MEAN_IMAGE = 0.08
OTHER_SCORES = dict.fromkeys(
    SCORE_COLUMNS.keys() - {"mse", "psnr_db", "ssim", "reidentified"}, 0.25
)  # of every victim


@dataclass
class Arm:
    """An arm: exact accuracy (a multiple of 1/200) and mean MSE, optionally by seed."""

    name: str
    defence: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    front_end: str = "cnn (cut 2, width 64)"
    accuracy: float = 0.9
    mse: float = 0.01
    macs: float = 1e6
    uplink_bytes: int = 4000
    latency_ms: float = 20.0
    micro: float = 1.0  # the MSE on microcontrollers, relative to that on all others
    precision: str = "float32"
    spread: float = 0.2  # of the victims' MSE, relative
    tiers: bool = False  # microcontrollers in a tier of their own
    tilt: float = 0.0  # of the arm over seeds 0, 1 and 2, whose mean is as stated


UNDEFENDED = Arm("undefended", accuracy=0.95, mse=0.004)


def standard_arms() -> list[Arm]:
    """Noise at three strengths, NoPeek at two, and a dominated one."""
    arms = [
        UNDEFENDED,
        Arm("noise_1", "gaussian_noise", {"scale": 0.2}, accuracy=0.94, mse=0.010, macs=1e6),
        Arm("noise_2", "gaussian_noise", {"scale": 0.5}, accuracy=0.90, mse=0.030, macs=1e6),
        Arm("noise_3", "gaussian_noise", {"scale": 1.0}, accuracy=0.80, mse=0.050, macs=1e6),
        Arm("nopeek_1", "nopeek", {"alpha": 0.1}, accuracy=0.93, mse=0.006, micro=0.5, tiers=True),
        Arm("nopeek_2", "nopeek", {"alpha": 1.0}, accuracy=0.88, mse=0.016, micro=0.5, tiers=True),
        Arm("narrow", "siftfunnel", {}, accuracy=0.70, mse=0.045, macs=2e5, uplink_bytes=700),
    ]
    return [replace(arm, tilt=1.0) for arm in arms]


def scenario(arms: list[Arm]) -> dict[str, Any]:
    return {
        "name": "made",
        "seed": 0,
        "data": {"name": "digits", "path": None, "max_images": 400, "splits": {"victims": 0.16}},
        "fleet": {
            "size": DEVICES,
            "mix": [{"device": "pixel-4", "weight": 1.0}, {"device": "gap9", "weight": 2.0}],
            "assignments": [
                {"name": "small", "devices": ["microcontroller"], "arms": _tiered(arms)}
            ]
            if _tiered(arms)
            else [],
        },
        "training": {"rounds": 5, "batch_size": 10},
        "serving": {"horizon_s": 600.0},
        "arms": [
            {
                "name": arm.name,
                "front_end": {"name": "cnn"},
                "defence": {"name": arm.defence, **arm.options},
            }
            for arm in arms
        ],
        "adversaries": [
            {"name": name, "attack": {"name": "residual_decoder", "capacity": capacity}}
            for name, capacity in (("weak", "small"), ("strong", "large"))
        ],
    }


def _tiered(arms: list[Arm]) -> list[str]:
    return [arm.name for arm in arms if arm.tiers]


def write_run(folder: Path, seed: int = 0, arms: list[Arm] | None = None) -> Path:
    """Write a complete results folder and return it."""
    arms = standard_arms() if arms is None else arms
    folder.mkdir(parents=True)
    tree = scenario(arms) | {"seed": seed}
    (folder / "scenario.resolved.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    summary = {
        "schema_version": 3,
        "status": "complete",
        "testbed_version": "0.1.0",
        "scenario": {"name": "made", "seed": seed, "description": ""},
        "data": {
            "name": "digits",
            "image_shape": [1, 32, 32],
            "num_classes": 10,
            "images": {"training": 220, "victims": 64},
        },
        "fleet": {"size": DEVICES, "device_classes": []},
        "arms": [_arm(arm) for arm in arms],
        "self_checks": [],
    }
    write_results(folder, summary)
    write_rows(folder, "rounds", _rounds(arms))
    write_rows(folder, "requests", [row for arm in arms for row in _requests(arm, seed)])
    write_rows(folder, "attacks", [row for arm in arms for row in _attacks(arm, seed)])
    write_rows(folder, "devices", [row for arm in arms for row in _devices(arm)])
    return folder


def _arm(arm: Arm) -> dict[str, Any]:
    options = ", ".join(f"{name} {value}" for name, value in arm.options.items())
    defence = f"{arm.defence} ({options})" if options else arm.defence
    edge = {"parameters": 1000, "macs": arm.macs, "feature_bytes": arm.uplink_bytes - 100}
    shared = {"front_end": arm.front_end, "defence": defence, "precision": arm.precision}
    tiers = [{"tier": "own", "devices": DEVICES, **shared, "edge": edge}]
    if arm.tiers:
        small = {**edge, "macs": arm.macs / 4}
        tiers.append({"tier": "small", "devices": DEVICES // 4, **shared, "edge": small})
    return {
        "name": arm.name,
        **shared,
        "cloud_model": "cnn",
        "edge": edge,
        "accuracy": {"test": {"value": arm.accuracy, "low": None, "high": None, "n": 200}},
        "serving": {"requests": 200, "answered": 200},
        "leakage": {
            "channels": 64,
            "live_channels": 60,
            "participation_ratio": 5.5,
            "spectral_rank": 20.0,
            "dcor_v": 0.8,
            "dcor_u": 0.5,
        },
        "tiers": tiers,
        "attacks": [
            {
                "adversary": adversary,
                "attack": attack,
                "is_anchor": attack == "mean_image",
                "rebuilds_images": True,
                "threat_model": "auxiliary images and queries",
                "victims": 200,
                "scores": {"mse": {"value": level, "low": None, "high": None, "n": 200}},
            }
            for adversary, attack, level in _levels(arm)
        ],
    }


def _levels(arm: Arm) -> list[tuple[str, str, float]]:
    return [
        (adversary, attack, level)
        for adversary, factor in (("weak", 1.5), ("strong", 1.0))
        for attack, level in (("mean_image", MEAN_IMAGE), ("residual_decoder", factor * arm.mse))
    ]


def _rounds(arms: list[Arm]) -> list[dict[str, Any]]:
    numbers = dict.fromkeys(
        ("training_loss", "training_accuracy", "validation_loss", "validation_accuracy"), 0.5
    )
    return [{"arm": arm.name, "round": 1, **numbers} for arm in arms]


def device_class(device: int) -> str:
    return CLASSES[device % len(CLASSES)]


def _tier(arm: Arm, device: int) -> str:
    return "small" if arm.tiers and device_class(device) == "microcontroller" else "own"


def _devices(arm: Arm) -> list[dict[str, Any]]:
    return [
        {"arm": arm.name, "device": device, "tier": _tier(arm, device)} for device in range(DEVICES)
    ]


def _requests(arm: Arm, seed: int) -> list[dict[str, Any]]:
    total = DEVICES * REQUESTS
    wrong = round((1 - arm.accuracy) * total) - (seed - 1) * round(arm.tilt)
    mistaken = set(np.random.default_rng((seed, 11)).permutation(total)[:wrong].tolist())
    return [
        {
            "arm": arm.name,
            "request": request,
            "device": request % DEVICES,
            "device_class": device_class(request % DEVICES),
            "victim": 1000 * seed + request,
            "status": "answered",
            "correct": request not in mistaken,
            "raw": False,
            "compute_ms": arm.latency_ms / 2,
            "uplink_ms": arm.latency_ms / 2,
            "queue_ms": 0.0,
            "cloud_ms": 0.0,
            "downlink_ms": 0.0,
            "latency_ms": arm.latency_ms * (1 + request / total),
            "energy_mj": None if device_class(request % DEVICES) == "phone" else 3.0,
            "uplink_bytes": arm.uplink_bytes,
        }
        for request in range(total)
    ]


def _attacks(arm: Arm, seed: int) -> list[dict[str, Any]]:
    total = DEVICES * REQUESTS
    rng = np.random.default_rng((seed, 7))  # the same victims are hard or easy for every arm
    hardness = 1 + arm.spread * rng.uniform(-1, 1, total)
    classes = np.array([device_class(request % DEVICES) for request in range(total)])
    weight = np.where(classes == "microcontroller", arm.micro, 1.0)
    values = hardness * weight
    values /= values.mean()
    rows = []
    for adversary, attack, level in _levels(arm):
        for request in range(total):
            drift = 1 + 0.02 * arm.tilt * (seed - 1)
            mse = MEAN_IMAGE if attack == "mean_image" else float(level * drift * values[request])
            rows.append(
                {
                    "arm": arm.name,
                    "adversary": adversary,
                    "attack": attack,
                    "request": request,
                    "device": request % DEVICES,
                    "device_class": str(classes[request]),
                    "tier": _tier(arm, request % DEVICES),
                    "victim": 1000 * seed + request,
                    "label": request % 10,
                    "mse": mse,
                    "psnr_db": float(-10 * np.log10(mse)),
                    "ssim": max(0.0, 0.95 - 12 * mse),
                    "reidentified": mse < 0.02,
                }
                | OTHER_SCORES
            )
    return rows


if __name__ == "__main__":
    for number in range(3):
        print(write_run(Path(sys.argv[1]) / f"seed{number}", number))
