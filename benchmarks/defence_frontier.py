"""Compares defences on one frontier of accuracy and attack error, under one training budget.

    python benchmarks/defence_frontier.py --defences none gaussian_noise:scale=4 siftfunnel_plus \
        --images 10000 --epochs 12 --seeds 0 1 --out results/frontier

Arms are written ``[front_end[:key=value,...]/]defence[:key=value,...]``. Finished arms are kept in
``frontier.csv`` and are not trained again.
"""

import argparse
import csv
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frontier.arms import ComparedArm, parse_arm
from frontier.measurement import AttackSetting, attack, is_random, measures
from frontier.training import Budget, accuracy, train

from testbed.adversaries.base import LabelledImages
from testbed.core.errors import UserError
from testbed.core.scenario import DataSection
from testbed.core.seeds import generator
from testbed.data.images import ImagePool
from testbed.data.loading import load_pool
from testbed.data.splits import split


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--defences", nargs="+", required=True, metavar="ARM")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--auxiliary", type=int, default=2000, help="the attacker's own images")
    parser.add_argument("--victims", type=int, default=500, help="images that are attacked")
    parser.add_argument("--tested", type=int, default=4000, help="images that accuracy is over")
    parser.add_argument("--decoder-epochs", type=int, default=60, help="at most; 0: ridge alone")
    parser.add_argument("--replays", type=int, nargs="*", default=[], help="releases averaged")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/frontier"))
    return parser.parse_args()


class Images:
    """The five disjoint parts, cut to the sizes asked for."""

    def __init__(self, arguments: argparse.Namespace, pool: ImagePool) -> None:
        self.num_classes = pool.num_classes
        self._pool = pool
        parts = split(pool, DataSection(name="cifar10").splits, seed=0)
        self.training = self._rows(parts.training, arguments.images, "training")
        self.tested = self._labelled(parts.victims, arguments.tested, "victims")
        self.attack_setting = AttackSetting(
            self._labelled(parts.auxiliary, arguments.auxiliary, "auxiliary"),
            self._labelled(parts.auxiliary_validation, 500, "auxiliary validation"),
            self._labelled(parts.victims, arguments.victims, "victims"),
            pool.num_classes,
        )
        self.training_images = pool.images[self.training]
        self.training_labels = pool.labels[self.training]

    def _rows(self, part: Any, count: int, name: str) -> Any:
        if count > len(part):
            raise UserError(f"{count} images of {name} were asked for, there are {len(part)}")
        return part[generator(0, f"frontier {name}").permutation(len(part))[:count]]

    def _labelled(self, part: Any, count: int, name: str) -> LabelledImages:
        rows = self._rows(part, count, name)
        return LabelledImages(
            self._pool.images[rows].astype(np.float32) / 255.0, self._pool.labels[rows]
        )


def run_arm(arm: ComparedArm, images: Images, arguments: argparse.Namespace, seed: int) -> Any:
    """Train one arm with one seed and measure it."""
    began = time.monotonic()
    trained = train(
        arm,
        images.training_images,
        images.training_labels,
        images.num_classes,
        Budget(arguments.images, arguments.epochs),
        seed,
        progress=lambda line: print(f"  {line}", flush=True),
    )
    trained_s = time.monotonic() - began
    setting = images.attack_setting
    attacks: list[tuple[str, dict[str, Any]]] = [("ridge", {}), ("kernel_ridge", {})]
    if arguments.decoder_epochs:
        attacks.append(("residual_decoder", {"max_epochs": arguments.decoder_epochs}))
    row = {
        "arm": arm.text,
        "seed": seed,
        "images": arguments.images,
        "epochs": arguments.epochs,
        "accuracy": accuracy(trained, images.tested.images, images.tested.labels),
        "random": is_random(trained, images.tested.images[:2]),
        **attack(trained, setting, attacks, seed),
        **measures(trained, images.tested.images),
    }
    for draws in arguments.replays:
        if row["random"]:
            replayed = attack(trained, setting, attacks, seed, draws)
            row[f"replay{draws}_mse"] = replayed["best_mse"]
            row[f"replay{draws}_ssim"] = replayed["best_ssim"]
    return row | {"training_s": trained_s, "all_s": time.monotonic() - began}


def main() -> int:
    """Run every arm with every seed, then draw the frontier."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    try:
        arms = [parse_arm(text) for text in arguments.defences]
        images = Images(arguments, load_pool(DataSection(name="cifar10")))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "frontier.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(row["arm"], int(row["seed"]), int(row["images"]), int(row["epochs"])) for row in rows}
    for seed in arguments.seeds:
        for arm in arms:
            if (arm.text, seed, arguments.images, arguments.epochs) in done:
                continue
            print(f"{arm.text} seed {seed}", flush=True)
            row = run_arm(arm, images, arguments, seed)
            print({k: (round(v, 4) if isinstance(v, float) else v) for k, v in row.items()}, flush=True)
            rows.append(row)
            names = list(dict.fromkeys(name for each in rows for name in each))
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, names, restval="")
                writer.writeheader()
                writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
