"""Rows of small images: originals and what attacks made of them."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from testbed.report.files import write_bytes
from testbed.report.findings import adversaries, readable
from testbed.report.folder import Images, Results

TILE_PX = 64
"""Small images are enlarged, by a whole factor and without smoothing, to about this size."""
GAP_PX = 4
MAX_SHOWN = 12


def image_row(images: Images) -> Images:
    """Return images (N, H, W, C) side by side, enlarged, as one (H', W', C) with white gaps."""
    scale = max(1, TILE_PX // images.shape[1])
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    padded = np.pad(large, ((0, 0), (0, 0), (0, GAP_PX), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)[:, :-GAP_PX]


def stacked(rows: list[Images]) -> Images:
    """Return rows of images (N, H, W, C) one above the other; shorter rows end in white."""
    made = [image_row(row) for row in rows]
    width = max(row.shape[1] for row in made)
    padded = [
        np.pad(row, ((0, GAP_PX), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in made
    ]
    return np.concatenate(padded, axis=0)[:-GAP_PX]


def png(image: Images) -> bytes:
    """Return an image (H, W, C) with C of 1 or 3 as PNG bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class LabelledRow:
    """A row of the report's comparison: whose it is, and up to ``MAX_SHOWN`` images."""

    label: str
    note: str
    images: Images
    is_original: bool


@dataclass(frozen=True)
class Comparison:
    """What one adversary made of the images it intercepted, over all arms."""

    adversary: str
    rows: list[LabelledRow]


def comparisons(results: Results) -> list[Comparison]:
    """Return originals and reconstructions per adversary, each distinct row once.

    Arms usually share their victims, and anchors do not depend on the arm: a row equal to one
    that is already shown is left out, and the first one's label says that it is shared.
    """
    found = []
    for adversary in adversaries(results.summary):
        rows: list[LabelledRow] = []
        for arm in results.arms:
            originals = results.samples.get(f"original/{arm.name}/{adversary}")
            if originals is None or len(originals) == 0:
                continue
            _add(rows, LabelledRow("original", "", originals[:MAX_SHOWN], True))
            for attack in arm.attacks:
                made = results.samples.get(f"{arm.name}/{adversary}/{attack.attack}")
                if attack.adversary != adversary or made is None or len(made) == 0:
                    continue
                label = readable(attack.attack)
                owner = "anchor" if attack.is_anchor else arm.name
                _add(rows, LabelledRow(label, owner, made[:MAX_SHOWN], False))
        if rows:
            found.append(Comparison(adversary, _anchors_first(rows)))
    return found


def _add(rows: list[LabelledRow], row: LabelledRow) -> None:
    if not any(
        row.label == known.label and np.array_equal(row.images, known.images) for known in rows
    ):
        rows.append(row)


def _anchors_first(rows: list[LabelledRow]) -> list[LabelledRow]:
    """Put anchors right below the originals where all arms share their victims."""
    if sum(row.is_original for row in rows) != 1:
        return rows
    return sorted(rows, key=lambda row: (not row.is_original, row.note != "anchor"))


def write_strips(results: Results) -> list[Path]:
    """Write ``reconstructions/<arm>+<adversary>+<attack>.png``, originals above, and list them."""
    written = []
    for arm in results.arms:
        for attack in arm.attacks:
            originals = results.samples.get(f"original/{arm.name}/{attack.adversary}")
            made = results.samples.get(f"{arm.name}/{attack.adversary}/{attack.attack}")
            if originals is None or made is None or len(originals) == 0 or len(made) == 0:
                continue
            name = f"{arm.name}+{attack.adversary}+{attack.attack}.png"
            path = results.path / "reconstructions" / name
            write_bytes(path, png(stacked([originals, made])))
            written.append(path)
    return written
