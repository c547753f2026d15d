"""Rows of small images: originals and reconstructions."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from testbed.core.files import write_bytes
from testbed.results.findings import adversaries, readable
from testbed.results.reading import Images, Results

TILE_PX = 64
"""Small images are enlarged to about this size, by a whole factor and without smoothing."""
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


def pairs(images: Images) -> Images:
    """Return N originals followed by N reconstructions (2 N, H, W, C), one row above the other."""
    count = len(images) // 2
    return stacked([images[:count], images[count:]])


def png(image: Images) -> bytes:
    """Return an image (H, W, C) with C of 1 or 3 as PNG bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class LabelledRow:
    """A row of the report's comparison: its label and up to ``MAX_SHOWN`` images."""

    label: str
    note: str
    images: Images
    is_original: bool


@dataclass(frozen=True)
class Comparison:
    """The reconstructions of one adversary on all arms."""

    adversary: str
    rows: list[LabelledRow]


def comparisons(results: Results) -> list[Comparison]:
    """Return originals and reconstructions per adversary, each distinct row once.

    Arms usually share their victims and the mean image: equal rows are merged, and the note names
    their arms unless the row holds for all arms.
    """
    found = []
    for adversary in adversaries(results.summary):
        rows: list[_Draft] = []
        for arm in results.arms:
            originals = results.samples.get(f"original/{arm.name}/{adversary}")
            if originals is None or len(originals) == 0:
                continue
            _add(rows, _Draft("original", False, originals[:MAX_SHOWN]), arm.name)
            for attack in arm.attacks:
                made = results.samples.get(f"{arm.name}/{adversary}/{attack.attack}")
                if attack.adversary == adversary and made is not None and len(made) > 0:
                    draft = _Draft(readable(attack.attack), attack.is_anchor, made[:MAX_SHOWN])
                    _add(rows, draft, arm.name)
        if rows:
            found.append(Comparison(adversary, _ordered(rows)))
    return found


@dataclass
class _Draft:
    """A row under construction, with the arms it holds for."""

    label: str
    is_anchor: bool
    images: Images
    arms: list[str] = field(default_factory=list)


def _add(rows: list[_Draft], row: _Draft, arm: str) -> None:
    for known in rows:
        if known.label == row.label and np.array_equal(known.images, row.images):
            known.arms.append(arm)
            return
    row.arms.append(arm)
    rows.append(row)


def _ordered(rows: list[_Draft]) -> list[LabelledRow]:
    """Label the rows; where all arms share their victims, anchors follow the originals."""
    originals = [row for row in rows if row.label == "original"]
    shown = len({arm for row in originals for arm in row.arms})
    if len(originals) == 1:
        rows = sorted(rows, key=lambda row: (row.label != "original", not row.is_anchor))
    made = []
    for row in rows:
        whose = "" if len(row.arms) == shown and shown > 1 else ", ".join(row.arms)
        note = ", ".join(filter(None, ("anchor" if row.is_anchor else "", whose)))
        made.append(LabelledRow(row.label, note, row.images, row.label == "original"))
    return made


def write_image_rows(results: Results) -> list[Path]:
    """Write ``reconstructions/<arm>+<adversary>+<attack>.png``, originals on top; return paths."""
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
