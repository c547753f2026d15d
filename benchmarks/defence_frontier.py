"""Compares defences on one frontier of accuracy and attack error, under one training budget.

    python benchmarks/defence_frontier.py --images 4000 --epochs 8 --document docs/cifar10.md
    python benchmarks/defence_frontier.py --images 10000 --epochs 12 --seeds 0 1 2 \
        --defences cnn:cut=2/none none gaussian_noise:scale=1.0 siftfunnel_plus

Without ``--defences`` every registered defence is compared. Arms are written
``[front_end[:key=value,...]/]defence[:key=value,...]``; the front-end is ``siftfunnel_cnn`` where
none is named. Data is CIFAR-10. Finished arms are kept in ``frontier.csv``, not trained again;
table and figure are made from all rows of equal training and equal attackers.
"""

import argparse
import multiprocessing
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from frontier.arms import DEFAULT_ARMS, ComparedArm, parse_arm
from frontier.images import FrontierImages, load_images
from frontier.matching import average_seeds
from frontier.measurement import attack, is_random, measures
from frontier.output import BLOCK, draw, table, verdicts
from frontier.records import read_rows, write_rows
from frontier.training import Budget, accuracy, train

from testbed.core.errors import UserError
from testbed.pages.documents import markdown_table, measured_into


def parse(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--defences", nargs="*", default=list(DEFAULT_ARMS), metavar="ARM")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--auxiliary", type=int, default=3000, help="the attacker's own images")
    parser.add_argument("--victims", type=int, default=500, help="images that are attacked")
    parser.add_argument("--tested", type=int, default=4000, help="images that accuracy is over")
    parser.add_argument("--decoder-epochs", type=int, default=60, help="at most; 0: no decoder")
    parser.add_argument(
        "--replays", type=int, nargs="*", default=[], help="releases averaged, where random"
    )
    parser.add_argument("--processes", type=int, default=1, help="arms trained at once")
    parser.add_argument("--out", type=Path, default=Path("results/frontier"))
    parser.add_argument("--document", type=Path, help="Markdown file that gets the tables")
    arguments = parser.parse_args(given)
    if arguments.processes < 1:
        parser.error("--processes: at least 1")
    return arguments


def terms(arguments: argparse.Namespace) -> dict[str, int]:
    """Return the settings that must be equal for two rows to be comparable."""
    names = ("images", "epochs", "auxiliary", "victims", "tested", "decoder_epochs")
    return {name: getattr(arguments, name) for name in names}


def same_terms(row: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Say whether a row was trained and attacked with the settings of the command line."""
    return all(row.get(name) == value for name, value in terms(arguments).items())


def load(arguments: argparse.Namespace) -> FrontierImages:
    """Load the images selected on the command line."""
    return load_images(arguments.images, arguments.auxiliary, arguments.victims, arguments.tested)


def run_apart(text: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one arm in a separate process."""
    torch.set_num_threads(1)
    return run_arm(parse_arm(text), load(arguments), arguments, seed)


def run_arm(
    arm: ComparedArm, images: FrontierImages, arguments: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Train one arm with one seed and measure it."""
    began = time.monotonic()
    trained = train(
        arm,
        images.training_images,
        images.training_labels,
        images.num_classes,
        Budget(arguments.images, arguments.epochs),
        seed,
        progress=lambda line: print(f"  {arm.text}: {line}", flush=True),
    )
    training_s = time.monotonic() - began
    attacks: list[tuple[str, dict[str, Any]]] = [("ridge", {}), ("kernel_ridge", {})]
    if arguments.decoder_epochs:
        attacks.append(("residual_decoder", {"max_epochs": arguments.decoder_epochs}))
    tested = images.tested
    row = {
        "arm": arm.text,
        "seed": seed,
        **terms(arguments),
        "accuracy": accuracy(trained, tested.images, tested.labels),
        "random": is_random(trained, tested.images[:2]),
        **attack(trained, images.attack_setting, attacks, seed),
        **measures(trained, tested.images),
    }
    for draws in arguments.replays if row["random"] else ():
        replayed = attack(trained, images.attack_setting, attacks, seed, draws)
        row |= {f"replay{draws}_{name}": replayed[f"best_{name}"] for name in ("mse", "ssim")}
    return row | {"training_s": training_s, "all_s": time.monotonic() - began}


def finished(
    arms: Sequence[ComparedArm],
    images: FrontierImages,
    arguments: argparse.Namespace,
    known: Sequence[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Run the arms and seeds without a row; yield each row when it is finished."""
    have = {(row["arm"], row["seed"]) for row in known if same_terms(row, arguments)}
    missing = [
        (arm, seed) for seed in arguments.seeds for arm in arms if (arm.text, seed) not in have
    ]
    if arguments.processes == 1:
        for arm, seed in missing:
            yield run_arm(arm, images, arguments, seed)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    with ProcessPoolExecutor(arguments.processes, context) as pool:
        futures = [pool.submit(run_apart, arm.text, seed, arguments) for arm, seed in missing]
        for future in as_completed(futures):
            yield future.result()


def report(rows: list[dict[str, Any]], images: FrontierImages, out: Path) -> str:
    """Draw the figure, write and return the tables."""
    averaged = average_seeds(rows)
    anchors = images.anchors()
    draw(averaged, out / "frontier.png", anchors)
    said = ", ".join(f"{name} {value:.4f}" for name, value in anchors.items())
    first = averaged[0]
    hidden = images.hidden_variance()
    text = "\n\n".join(
        (
            f"{first['images']:,} training images, {first['epochs']} epochs; attackers hold "
            f"{first['auxiliary']:,} images and train decoders for at most "
            f"{first['decoder_epochs']} epochs; {first['victims']} victims, accuracy and measures "
            f"on {first['tested']:,} images. MSE without features: {said}.",
            "Variance per element that a view hides, by its hidden frequencies per axis:",
            markdown_table(
                [str(frequencies) for frequencies in hidden],
                [[f"{variance:.4f}" for variance in hidden.values()]],
            ),
            table(averaged),
            "Against the hull of all other defences at the same accuracy:",
            verdicts(averaged),
        )
    )
    (out / "frontier.md").write_text(text + "\n", encoding="utf-8")
    return text


def measure(arguments: argparse.Namespace) -> str:
    """Run every arm with every seed, and return the tables and a link to the figure.

    Raises
    ------
    UserError : an arm is not valid, or there is none to report.
    """
    arms = [parse_arm(text) for text in arguments.defences]
    images = load(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "frontier.csv"
    for row in finished(arms, images, arguments, read_rows(path)):
        write_rows(path, [*read_rows(path), row])
        print(f"  {row['arm']}: accuracy {row['accuracy']:.3f}, MSE {row['best_mse']:.4f}")
    rows = [row for row in read_rows(path) if same_terms(row, arguments)]
    if not rows:
        raise UserError(f"--defences: no arm, and none on these terms in {path}")
    text = report(rows, images, arguments.out)
    if arguments.document is None:
        return text
    figure = arguments.document.parent / "images" / "frontier.png"
    shutil.copy(arguments.out / "frontier.png", figure)
    return f"{text}\n\n![Accuracy against the best attack's error](images/frontier.png)"


def main(given: list[str] | None = None) -> int:
    """Compare the defences."""
    arguments = parse(given)
    torch.set_num_threads(1)
    return measured_into(
        arguments.document,
        BLOCK,
        lambda: (measure(arguments), True),
        [Path(__file__).parent / "frontier"],
        arguments.seeds,
    )


if __name__ == "__main__":
    sys.exit(main())
