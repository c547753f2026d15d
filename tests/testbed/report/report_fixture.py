"""Writes a synthetic but consistent results folder (docs/results.md), as a run would.

``PYTHONPATH=.:tests python tests/testbed/report/report_fixture.py FOLDER`` writes one to look at.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from small import filled, write_results, write_rows

from testbed.results.figures import SCORES
from testbed.results.host_facts import HostFacts

ARMS = ("undefended", "siftfunnel")
ADVERSARIES = {"eavesdropper": "links", "curious-cloud": "cloud"}
CLASSES = {  # devices, models, edge ms of the first arm, mJ of the first arm or unknown
    "microcontroller": (18, {"NUCLEO-H7A3": 11, "Nano 33 BLE": 7}, 2400.0, 160.0),
    "single-board": (30, {"Raspberry Pi 4": 20, "Raspberry Pi Zero 2 W": 10}, 38.0, 120.0),
    "phone": (28, {"Pixel 4": 15, "Mi 9": 13}, 9.0, 31.0),
    "phone-gpu": (8, {"Adreno 640": 8}, 5.0, None),
    "edge-gpu": (10, {"Jetson Nano": 10}, 4.0, 24.0),
    "edge-tpu": (6, {"Coral USB": 6}, 2.2, 9.0),
}
VICTIMS = 280
ROUNDS = 12


def interval(value: float, half: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def digit_images(n: int) -> np.ndarray:
    small = load_digits().images[:n] / 16.0
    return np.kron(small, np.ones((4, 4)))[:, None].astype(np.float32)


def write(folder: Path, description: str = "Six device classes, two arms.") -> Path:
    """Write a complete results folder and return it."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True)
    requests = _requests(rng)
    arms = [_arm(index, requests, rng) for index in range(len(ARMS))]
    summary = {
        "schema_version": 3,
        "status": "complete",
        "testbed_version": "0.1.0",
        "scenario": {"name": "fixture-100", "seed": 7, "description": description},
        "data": {
            "name": "digits",
            "image_shape": [1, 32, 32],
            "num_classes": 10,
            "label_names": [str(digit) for digit in range(10)],
            "has_persons": False,
            "source": "scikit-learn digits (UCI), resized to 32 x 32",
            "notes": ["not split by person"],
            "images": {
                "training": 988,
                "validation": 144,
                "auxiliary": 305,
                "auxiliary_validation": 72,
                "victims": VICTIMS,
            },
            "majority_class_accuracy": 0.1036,
        },
        "fleet": {
            "size": 100,
            "device_classes": [
                {
                    "device_class": name,
                    "devices": devices,
                    "models": models,
                    "links": {"wifi": devices - devices // 3, "lte": devices // 3},
                }
                for name, (devices, models, _, _) in CLASSES.items()
            ],
        },
        "arms": arms,
        "self_checks": [
            {"name": "splits are disjoint", "passed": True, "detail": "1,789 image hashes"},
            {"name": "bytes add up", "passed": True, "detail": "ledger equals the wire"},
        ],
    }
    write_results(folder, summary)
    write_json(folder / "host.json", filled(HostFacts, _host()))
    write_rows(folder, "rounds", _rounds(rng))
    write_rows(folder, "requests", requests)
    write_rows(folder, "attacks", [row for arm in arms for row in _attacked(arm, requests)])
    _write_samples(folder, rng)
    (folder / "scenario.resolved.yaml").write_text("name: fixture-100\n")
    return folder


def write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree, indent=1), encoding="utf-8")


def _requests(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    names = [name for name, facts in CLASSES.items() for _ in range(facts[0])]
    for index, arm in enumerate(ARMS):
        picks = np.random.default_rng(3).integers(0, len(names), VICTIMS)
        for request, pick in enumerate(picks):
            device_class = names[pick]
            status = "offline" if rng.random() < 0.04 else "answered"
            if device_class == "microcontroller" and index == 0 and pick % 3 == 0:
                status = "infeasible"
            row: dict[str, Any] = {
                "arm": arm,
                "request": request,
                "device_class": device_class,
                "status": status,
            }
            parts = dict.fromkeys(
                ("compute_ms", "uplink_ms", "queue_ms", "cloud_ms", "downlink_ms"), None
            )
            if status == "answered":
                slow = 10.0 if rng.random() < 0.3 else 1.0
                base = CLASSES[device_class][2] / (1.0 if index == 0 else 6.5)
                uplink = (6.0 if index == 0 else 2.0) * slow
                parts = {
                    "compute_ms": base * rng.lognormal(0, 0.15),
                    "uplink_ms": uplink * rng.lognormal(0, 0.3),
                    "queue_ms": float(rng.exponential(0.3)),
                    "cloud_ms": 1.4,
                    "downlink_ms": 2.0 * slow,
                }
            row |= parts
            known = [value for value in parts.values() if value is not None]
            row["latency_ms"] = sum(known) if known else None
            rows.append(row)
    return rows


def _rounds(rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        {
            "arm": arm,
            "protocol": "split_federated",
            "round": number,
            "virtual_s": 40.0 * number,
            "training_loss": 2.3 * np.exp(-number / (3 + 2 * index)) + 0.1 * rng.random(),
            "training_accuracy": 1 - 0.9 * np.exp(-number / (2 + index)),
            "validation_loss": 2.3 * np.exp(-number / (3 + 2 * index)) + 0.15,
            "validation_accuracy": (
                1 - 0.05 * (1 + index) - 0.85 * np.exp(-number / (2 + index))
                if number % 2 == 0 or number == 1
                else None
            ),
        }
        for index, arm in enumerate(ARMS)
        for number in range(1, ROUNDS + 1)
    ]


def _arm(index: int, requests: list[dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
    mine = [row for row in requests if row["arm"] == ARMS[index]]
    latency = [row["latency_ms"] for row in mine if row["status"] == "answered"]
    parts = {
        part: float(np.mean([r[f"{part}_ms"] for r in mine if r["status"] == "answered"]))
        for part in ("compute", "uplink", "queue", "cloud", "downlink")
    }
    statuses = [row["status"] for row in mine]
    less = 1.0 if index == 0 else 6.5
    test = interval((0.968, 0.914)[index], (0.021, 0.033)[index], len(latency))
    return {
        "name": ARMS[index],
        "front_end": ("cnn", "cnn_funnel")[index],
        "defence": ("none", "siftfunnel")[index],
        "cloud_model": ("cnn", "cnn_sifted")[index],
        "edge": {
            "parameters": (75_000, 9_900)[index],
            "macs": (19_922_944, 2_490_368)[index],
            "peak_activation_elements": (131_072, 65_536)[index],
            "feature_shape": [[128, 8, 8], [12, 8, 8]][index],
            "feature_bytes": (32_768, 3_072)[index],
            "weight_bytes": (300_000, 39_600)[index],
        },
        "cloud": {"parameters": (1_200_000, 1_310_000)[index], "macs": 85e6},
        "accuracy": {
            "test": test,
            "final_validation": test["value"] - 0.004,
            "best_validation": test["value"] + 0.003,
        },
        "training": {
            "rounds": ROUNDS,
            "virtual_s": 480.5,
            "uplink_bytes": (310_123_456, 41_000_789)[index],
            "downlink_bytes": (402_123_456, 52_000_789)[index],
            "energy_j": 812.4 / less,
            "energy_unknown_devices": 8,
            "participations": (188, 223)[index],
            "stragglers": (21, 3)[index],
            "offline": 13,
            "infeasible": (6, 0)[index],
            "failed": 0,
        },
        "serving": {
            "requests": VICTIMS,
            "answered": len(latency),
            "offline": statuses.count("offline"),
            "infeasible": statuses.count("infeasible"),
            "deadline_misses": sum(value > 1000 for value in latency),
            "latency_ms": {
                "median": float(np.median(latency)),
                "p95": float(np.quantile(latency, 0.95)),
                "p99": float(np.quantile(latency, 0.99)),
            },
            "latency_parts_ms": parts,
            "energy_mj_per_request": 88.3 / less,
            "energy_unknown_devices": 8,
            "uplink_bytes_per_request": (33_180, 3_484)[index],
            "downlink_bytes_per_request": 212,
            "cloud_utilisation": 0.0431,
        },
        "leakage": {
            "channels": (128, 12)[index],
            "live_channels": (121, 11)[index],
            "participation_ratio": (14.21, 5.37)[index],
            "dcor_v": (0.931, 0.842)[index],
            "dcor_u": (0.902, 0.771)[index],
            "hsic": (0.713, 0.402)[index],
            "spectral_rank": (31.7, 9.81)[index],
            "mean_abs_feature": 0.41,
            "nonzero_per_sample": (4021.0, 488.5)[index],
            "samples": 256,
        },
        "by_device_class": [_on_class(index, name, mine) for name in CLASSES],
        "attacks": [
            attack
            for adversary in ADVERSARIES
            for attack in _attacks(index, adversary, len(latency), rng)
        ],
    }


def _on_class(index: int, name: str, mine: list[dict[str, Any]]) -> dict[str, Any]:
    devices, _, edge_ms, energy_mj = CLASSES[name]
    less = 1.0 if index == 0 else 6.5
    latency = [r["latency_ms"] for r in mine if r["device_class"] == name and r["latency_ms"]]
    return {
        "device_class": name,
        "devices": devices,
        "infeasible_training": 6 if name == "microcontroller" and index == 0 else 0,
        "infeasible_serving": 6 if name == "microcontroller" and index == 0 else 0,
        "requests": sum(r["device_class"] == name for r in mine),
        "accuracy": interval(0.95 - 0.04 * index, 0.03, len(latency)) if latency else None,
        "latency_ms": {
            "median": float(np.median(latency)) if latency else None,
            "p95": float(np.quantile(latency, 0.95)) if latency else None,
        },
        "energy_mj_per_request": None if energy_mj is None else energy_mj / less,
        "edge_compute_ms": edge_ms / less,
        "uplink_bytes_per_request": (33_180, 3_484)[index],
        "stragglers": 21 if name == "microcontroller" and index == 0 else 0,
        "offline": 2,
        "participations": devices * 2,
    }


def _attacks(
    index: int, adversary: str, answered: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    victims = answered if adversary == "curious-cloud" else answered // 3
    wide = 1.0 if adversary == "curious-cloud" else 1.8
    levels = {
        "mean_image": (0.0702, True, 0.01),
        "class_mean": (0.0415, True, 0.09),
        "residual_decoder": ((0.0061, 0.0312)[index], False, (0.98, 0.41)[index]),
        "ridge": ((0.0144, 0.0733)[index], False, (0.90, 0.12)[index]),
        "substitute": ((0.0361, 0.0588)[index], False, (0.33, 0.08)[index]),
    }
    made = []
    for attack, (error, anchor, reidentified) in levels.items():
        trained = attack == "residual_decoder"
        curve = [
            {
                "epoch": epoch,
                "training_mse": error * 0.9 + 0.06 * np.exp(-epoch / 9),
                "validation_mse": error + 0.06 * np.exp(-epoch / 9) + 2e-4 * rng.random(),
            }
            for epoch in range(1, 61)
        ]
        made.append(
            {
                "adversary": adversary,
                "attack": attack,
                "is_anchor": anchor,
                "rebuilds_images": True,
                "learns_from_intercepts": attack == "substitute",
                "queries": 0 if anchor or attack == "substitute" else 18_300,
                "extremes": [
                    {"rank": rank, "mse": error * factor, "ssim": 0.4}
                    for rank, factor in (("best", 0.4), ("median", 0.9), ("worst", 3.0))
                ],
                "by_link": [
                    {
                        "link": link,
                        "victims": victims // 2,
                        "mse": interval(error * factor, error * 0.1, victims // 2),
                        "recognisable_share": interval(0.4, 0.1, victims // 2),
                        "reidentification": interval(reidentified, 0.02, victims // 2),
                    }
                    for link, factor in (("wifi", 0.98), ("lte", 1.03))
                ],
                "threat_model": "Knows the deployed front-end, holds auxiliary images of the "
                "same distribution, reads features; neither labels nor victims' images.",
                "position": "35% of the links" if adversary == "eavesdropper" else "cloud",
                "victims": victims,
                "scores": {score.key: interval(0.25, 0.1, victims) for score in SCORES}
                | {
                    "mse": interval(error, error * 0.06 * wide, victims),
                    "psnr_db": interval(-10 * np.log10(error), 0.25 * wide, victims),
                    "ssim": interval(max(0.05, 0.95 - 12 * error), 0.012 * wide, victims),
                    "reidentification": interval(reidentified, 0.005 * wide, victims),
                },
                "pool_size": victims,
                "chance_reidentification": 1 / victims,
                "worse_than_mean_image": error > 0.0702,
                "body_parameters": 134_401 if trained else None,
                "best_epoch": 58 if trained else None,
                "training_curve": curve if trained else [],
                "by_device_class": [
                    {
                        "device_class": name,
                        "victims": max(1, victims * facts[0] // 100),
                        **{score.key: interval(0.25, 0.1, 20) for score in SCORES},
                        **{
                            score: interval(value, half, max(1, victims * facts[0] // 100))
                            for score, value, half in (
                                ("mse", error * (0.9 + 0.03 * n), error * wide / facts[0]),
                                ("psnr_db", -10 * np.log10(error), 1.0),
                                ("ssim", max(0.05, 0.95 - 12 * error), 0.05),
                                ("reidentification", reidentified, 0.01),
                            )
                        },
                    }
                    for n, (name, facts) in enumerate(CLASSES.items())
                ],
            }
        )
    return made


def _attacked(arm: dict[str, Any], requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row of attacks.parquet for each victim: the first of the answered requests."""
    answered = [
        row["request"]
        for row in requests
        if row["arm"] == arm["name"] and row["status"] == "answered"
    ]
    return [
        {
            "arm": arm["name"],
            "adversary": attack["adversary"],
            "attack": attack["attack"],
            "request": request,
            "mse": attack["scores"]["mse"]["value"],
        }
        for attack in arm["attacks"]
        for request in answered[: attack["victims"]]
    ]


def _host() -> dict[str, Any]:
    return {
        "versions": {"python": "3.11.9", "flwr": "1.41.0", "torch": "2.13.0", "ray": "2.55.1"},
        "cores": 2,
        "phases": [
            {"name": "start", "wall_s": 6.1},
            {"name": "train undefended", "wall_s": 21.4},
            {"name": "train siftfunnel", "wall_s": 19.8},
            {"name": "serve", "wall_s": 3.2},
            {"name": "attack", "wall_s": 31.9},
        ],
        "total_wall_s": 82.4,
        "processes": [
            {"name": "driver", "cpu_s": 48.2, "peak_rss_mb": 712.0},
            {"name": "host 0", "cpu_s": 37.5, "peak_rss_mb": 431.0},
            {"name": "adversary 0", "cpu_s": 29.9, "peak_rss_mb": 502.0},
        ],
        "attacks": [
            {"arm": ARMS[0], "adversary": "eavesdropper", "attack": "ridge"}
            | {"cpu_s": 12.5, "peak_mb": 310.0}
        ],
        "reference_rate": {"front_end": "cnn", "images_per_s": 3120.0, "gmac_per_s": 62.2},
        "backend": "ray",
        "hosts": 2,
    }


def _write_samples(folder: Path, rng: np.random.Generator) -> None:
    arrays = {}
    for offset, adversary in enumerate(ADVERSARIES):
        images = digit_images(60)[12 * offset : 12 * offset + 12]
        mean = np.repeat(digit_images(500).mean(0, keepdims=True), 12, axis=0)
        for index, arm in enumerate(ARMS):
            blur = (0.08, 0.6)[index]
            noise = rng.normal(0, (0.05, 0.12)[index], images.shape)
            arrays[f"original/{arm}/{adversary}"] = images
            arrays[f"{arm}/{adversary}/mean_image"] = mean
            arrays[f"{arm}/{adversary}/class_mean"] = 0.5 * mean + 0.2 * images
            arrays[f"{arm}/{adversary}/residual_decoder"] = (
                (1 - blur) * images + blur * mean + noise
            )
            arrays[f"{arm}/{adversary}/ridge"] = 0.5 * images + 0.5 * mean + 2 * noise
    path = folder / "reconstructions" / "samples.npz"
    path.parent.mkdir()
    quantised = {k: (np.clip(v, 0, 1) * 255).round().astype(np.uint8) for k, v in arrays.items()}
    np.savez_compressed(path, **quantised)


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
