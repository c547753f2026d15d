"""Draws the picture of the README: original images, and what attacks reconstructed from features.

    python -m testbed.run scenarios/cifar10_demo.yaml
    python benchmarks/picture.py results/cifar10_demo docs/images/reconstructions.png

It shows the first victims of the run, without any choice.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from testbed.core.errors import UserError
from testbed.core.files import write_bytes
from testbed.report.image_rows import LabelledRow, comparisons, png
from testbed.results.findings import readable
from testbed.results.reading import Images, read_results

TILE_PX, GAP_PX, LABEL_PX = 96, 6, 180
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def rows_of(folder: Path, adversary: str, attacks: Sequence[str]) -> list[LabelledRow]:
    """Return the originals of one adversary's victims, and one row per attack and arm.

    Raises
    ------
    UserError : the folder holds no such pictures.
    """
    labels = ["original", *map(readable, attacks)]
    for comparison in comparisons(read_results(folder)):
        if comparison.adversary == adversary:
            rows = [row for row in comparison.rows if row.label in labels]
            return sorted(rows, key=lambda row: labels.index(row.label))
    raise UserError(f"{folder}: no reconstructions by an adversary '{adversary}'")


def picture(rows: Sequence[LabelledRow], count: int) -> Images:
    """Return the first ``count`` images of every row, enlarged and labelled, as one (H, W, 3)."""
    step = TILE_PX + GAP_PX
    canvas = Image.new("RGB", (LABEL_PX + count * step, len(rows) * step + GAP_PX), "white")
    draw = ImageDraw.Draw(canvas)
    bold = ImageFont.truetype(str(FONTS / "DejaVuSans-Bold.ttf"), 16)
    plain = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), 14)
    for number, row in enumerate(rows):
        top = GAP_PX + number * step
        for text, font, below_px in zip(label(row), (bold, plain), (-20, 2), strict=True):
            draw.text((GAP_PX, top + TILE_PX // 2 + below_px), text, font=font, fill="#333333")
        for column, image in enumerate(row.images[:count]):
            pixels = image.repeat(3 // image.shape[-1], axis=-1)
            tile = Image.fromarray(pixels).resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)
            canvas.paste(tile, (LABEL_PX + column * step, top))
    return np.asarray(canvas)


def label(row: LabelledRow) -> tuple[str, str]:
    """Return what the picture says beside a row, for readers who know no attack by name."""
    if row.is_original:
        return "original", "on the device"
    if row.note.startswith("anchor"):
        return row.label, "uses no features"
    return "reconstructed", row.note


def main(arguments: list[str] | None = None) -> int:
    """Draw the picture; return 0, or 2 with one sentence on standard error for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the results folder of a run")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument("--adversary", default="curious_cloud")
    parser.add_argument("--attacks", nargs="+", default=["residual_decoder", "mean_image"])
    parser.add_argument("--images", type=int, default=8)
    chosen = parser.parse_args(arguments)
    try:
        rows = rows_of(chosen.folder, chosen.adversary, chosen.attacks)
        write_bytes(chosen.picture, png(picture(rows, chosen.images)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
