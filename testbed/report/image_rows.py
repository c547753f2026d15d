"""Rows of small images: originals and reconstructions."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from testbed.core.files import write_bytes
from testbed.results.findings import adversaries, readable
from testbed.results.reading import Images, Results
from testbed.results.schema import AttackResult, training_samples

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
    """The reconstructions of one adversary on all arms.

    Attributes
    ----------
    adversary : its name, with words where the victims are training images.
    """

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
            own = [attack for attack in arm.attacks if attack.adversary == adversary]
            original = f"original/{arm.name}/{adversary}"
            made = [(item, f"{arm.name}/{adversary}/{item.attack}") for item in own]
            _add_attacks(rows, results, arm.name, original, made)
        if rows:
            found.append(Comparison(adversary, _ordered(rows)))
    return [*found, *_training_comparisons(results)]


def _training_comparisons(results: Results) -> list[Comparison]:
    """Return the training images that adversaries attacked, and their reconstructions."""
    drafts: dict[str, list[_Draft]] = {}
    for arm in results.arms:
        named: dict[tuple[str, str], list[tuple[AttackResult, str]]] = {}
        for item in arm.training_attacks:
            original, made = training_samples(arm.name, item.result)
            named.setdefault((item.result.adversary, original), []).append((item.result, made))
        for (adversary, original), own in named.items():
            _add_attacks(drafts.setdefault(adversary, []), results, arm.name, original, own)
    return [
        Comparison(f"{adversary}: training images", _ordered(rows))
        for adversary, rows in drafts.items()
        if rows
    ]


def _add_attacks(
    rows: "list[_Draft]",
    results: Results,
    arm: str,
    original: str,
    made: Sequence[tuple[AttackResult, str]],
) -> None:
    """Add one adversary's originals and reconstructions on an arm, by the names of the samples."""
    originals = results.samples.get(original)
    if originals is None or len(originals) == 0:
        return
    _add(rows, _Draft("original", False, originals[:MAX_SHOWN]), arm)
    for attack, name in made:
        images = results.samples.get(name)
        if images is not None and len(images) > 0:
            _add(rows, _Draft(readable(attack.attack), attack.is_anchor, images[:MAX_SHOWN]), arm)


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
