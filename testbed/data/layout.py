"""Finds the splits of a folder of parquet files: training files, official test set, others.

The rules for names are those of Hugging Face; the first that fits any file decides
(https://huggingface.co/docs/hub/datasets-file-names-and-splits):

1. ``configs`` in the front matter of README.md declare the files of every split.
2. ``data/NAME-00000-of-00001.parquet`` is a file of the split NAME.
3. A folder's name contains a keyword: ``default/train/0000.parquet``.
4. The file's name contains a keyword: ``plain_text/train-00000-of-00001.parquet``,
   ``mnist_test.parquet``.
5. All files are training files.

A keyword is delimited by one of ``-._``, a space, a digit or the end. Capitals do not matter here.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

from testbed.core.errors import UserError
from testbed.scenario.loading import parse_yaml

KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SEPARATOR = r"[-._ 0-9]"
SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*\.[^/]*")
DEEPEST = 3
"""Folders below the dataset's own that are searched, so that a wrong path is not read for hours."""
FEW_FILES = 3
NO_SPLIT = "of no split"
SUBSETS = ("data", "default", "plain_text")
"""Folders in which the hub keeps the files of a dataset that has one subset."""

T = TypeVar("T")


@dataclass(frozen=True)
class SplitChoice:
    """Which subset and splits a scenario uses.

    Attributes
    ----------
    training : the split of all parts but the victims.
    test : the split that is the official test set, or None: victims are drawn from ``training``.
    subset : a folder or configuration of a dataset that has several.
    """

    training: str = "train"
    test: str | None = "test"
    subset: str | None = None


DEFAULT_CHOICE = SplitChoice()


def parquet_files(folder: Path) -> list[Path]:
    """Return the parquet files of a dataset's folder and of folders in it, without hidden ones."""
    found = (
        path for depth in range(DEEPEST + 1) for path in folder.glob("*/" * depth + "*.parquet")
    )
    return sorted(
        path
        for path in found
        if path.is_file()
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    )


def holds_dataset(folder: Path) -> bool:
    """Say whether a folder holds the files of one dataset, not folders of several."""
    return any(
        len(name.parts) == 1 or name.parts[0] in SUBSETS or any(_keyword_splits(name.parts[0]))
        for name in (path.relative_to(folder) for path in parquet_files(folder))
    )


def splits_of(folder: Path, subset: str | None = None) -> dict[str, list[Path]]:
    """Return the files of every split.

    Raises
    ------
    UserError : no such subset, several subsets of which none is chosen, a name of two splits, or a
        name that may be that of a test set.
    """
    names = {path: path.relative_to(folder) for path in parquet_files(folder)}
    readme = folder / "README.md"
    patterns = _declared(readme, subset)
    declared = _matching(readme, patterns, list(names))
    if declared:
        return _checked({path: declared.get(path, []) for path in names}, folder)
    if subset is not None:
        names = {path: name for path, name in names.items() if name.is_relative_to(subset)}
        if not names:
            raise UserError(f"data.options.subset: no folder '{subset}' with images in {folder}")
    for rule in (_shards, _folders, _file_names):
        places = {path: list(rule(name)) for path, name in names.items()}
        if any(places.values()):
            return _checked(places, folder)
    missing = [name for _, name in patterns if PurePath(name).suffix in ("", ".parquet")]
    if missing:
        raise UserError(
            f"{readme}: its configs name {', '.join(missing[:FEW_FILES])}, which is no parquet "
            f"file here, and other names say no split; get these files, or change README.md"
        )
    _refuse_hidden_tests(list(names.values()), folder)
    return {"train": list(names)}


def choose_splits(
    splits: Mapping[str, Sequence[T]], choice: SplitChoice, where: str, name: Callable[[T], str]
) -> tuple[list[tuple[T, bool]], tuple[str, ...]]:
    """Choose the items (files, or splits of the hub) of training and official test set.

    Parameters
    ----------
    where : the dataset, for messages.
    name : of an item, for messages.

    Returns
    -------
    Every chosen item, and whether it is of the official test set; and sentences on the choice.

    Raises
    ------
    UserError : the dataset has no training split.
    """
    canonical: dict[str, list[T]] = {}
    for split, items in splits.items():
        canonical.setdefault(_alias(split), []).extend(items)
    training = _alias(choice.training)
    test = None if choice.test is None or _alias(choice.test) == training else _alias(choice.test)
    if training not in canonical:
        listed = "; ".join(f"{split}: {_few(items, name)}" for split, items in canonical.items())
        raise UserError(
            f"{where}: no files of the split '{training}', only {listed}; set "
            "data.options.training_split (and test_split), or rename the files"
        )
    if choice.test not in ("test", None) and test is not None and test not in canonical:
        raise UserError(
            f"data.options.test_split: {where} has no split '{choice.test}', only "
            f"{', '.join(canonical)}"
        )
    tests = canonical.get(test, []) if test is not None else []
    left = {key: items for key, items in canonical.items() if key not in (training, test)}
    notes = [
        f"training files: {_few(canonical[training], name)}",
        f"official test set: {_few(tests, name)}"
        if tests
        else "no official test set: victims are drawn from the training files",
    ]
    notes += [f"left out: {_few(items, name)} ({split})" for split, items in left.items()]
    chosen = [(item, False) for item in canonical[training]] + [(item, True) for item in tests]
    return chosen, tuple(notes)


def _alias(split: str) -> str:
    """Return the split that a name such as ``eval`` means."""
    known = (key for key, words in KEYWORDS.items() if split.lower() in words)
    return next(known, split)


def _few(items: Sequence[T], name: Callable[[T], str]) -> str:
    more = f" and {len(items) - FEW_FILES} more" if len(items) > FEW_FILES else ""
    return ", ".join(name(item) for item in items[:FEW_FILES]) + more


def _keyword_splits(text: str) -> Iterator[str]:
    for split, words in KEYWORDS.items():
        pattern = rf"(?:.*{SEPARATOR})?(?:{'|'.join(words)})(?:{SEPARATOR}.*)?"
        if re.fullmatch(pattern, text, re.IGNORECASE):
            yield split


# Each rule yields the split that a name is of, and the folder that the split is in: its subset.


def _shards(name: PurePath) -> Iterator[tuple[str, PurePath]]:
    shard = SHARD.fullmatch(name.name)
    if name.parts[:-1] == ("data",) and shard:
        yield _alias(shard[1]), name.parent


def _folders(name: PurePath) -> Iterator[tuple[str, PurePath]]:
    for depth, part in enumerate(name.parts[:-1]):
        for split in _keyword_splits(part):
            yield split, PurePath(*name.parts[:depth])


def _file_names(name: PurePath) -> Iterator[tuple[str, PurePath]]:
    for split in _keyword_splits(name.name):
        yield split, name.parent


def _checked(places: dict[Path, list[tuple[str, PurePath]]], folder: Path) -> dict[str, list[Path]]:
    """Return the files of each split; refuse files of two splits, and splits in two subsets."""
    splits: dict[str, list[Path]] = {}
    subsets: dict[str, set[PurePath]] = {}
    for path, found in places.items():
        if not found:
            splits.setdefault(NO_SPLIT, []).append(path)
            continue
        names = sorted({split for split, _ in found})
        if len(names) > 1:
            raise UserError(
                f"{path}: the file is of the splits {' and '.join(names)}, and should be of one"
            )
        splits.setdefault(names[0], []).append(path)
        subsets.setdefault(names[0], set()).add(found[0][1])
    for split, parents in subsets.items():
        if len(parents) > 1:
            listed = ", ".join(sorted(str(parent) for parent in parents))
            raise UserError(
                f"{folder}: the split '{split}' is in several folders ({listed}); name one in "
                "data.options.subset, or in data.path"
            )
    return splits


def _refuse_hidden_tests(names: Sequence[PurePath], folder: Path) -> None:
    """Refuse files that may be a test set, among files without a split in their names."""
    tests = [
        name for name in names if re.search(r"^test|(?<=[a-z])Test|test$", name.stem) is not None
    ]
    if 0 < len(tests) < len(names):
        raise UserError(
            f"{folder / tests[0]}: it may be a test set, but no file says its split: put train or "
            "test into the names, delimited as in mnist-train.parquet and mnist-test.parquet"
        )


def _declared(readme: Path, subset: str | None) -> list[tuple[str, str]]:
    """Return the splits that README.md declares, each with a pattern of its files."""
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    front = re.match(r"\ufeff?---\s*\n(.*?)\n---", text, re.DOTALL)
    if front is None or "configs:" not in front[1]:
        return []
    card = parse_yaml(front[1], str(readme), as_text=True)
    configs = card.get("configs") if isinstance(card, dict) else None
    found = [item for item in configs or [] if isinstance(item, dict) and "data_files" in item]
    chosen = _chosen_config(found, subset, readme)
    if chosen is None:
        return []
    try:
        return list(_patterns(chosen["data_files"]))
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{readme}: configs.data_files cannot be read ({error}); write a list of split and path"
        ) from None


def _matching(
    readme: Path, patterns: Sequence[tuple[str, str]], files: Sequence[Path]
) -> dict[Path, list[tuple[str, PurePath]]]:
    """Return the files whose splits README.md declares, as the rules do; {} if there are none."""
    declared: dict[Path, list[tuple[str, PurePath]]] = {}
    for split, pattern in patterns:
        try:
            found = set(readme.parent.glob(pattern))
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"{readme}: configs.data_files cannot be read ({error})") from None
        for path in found.intersection(files):
            declared.setdefault(path, []).append((_alias(split), PurePath()))
    return declared


def _chosen_config(
    configs: Sequence[dict[str, Any]], subset: str | None, readme: Path
) -> dict[str, Any] | None:
    names = [str(item.get("config_name")) for item in configs]
    if subset is not None:
        return next(
            (item for item, name in zip(configs, names, strict=True) if name == subset), None
        )
    defaults = [
        item
        for item, name in zip(configs, names, strict=True)
        if len(configs) == 1 or name == "default" or item.get("default") == "true"
    ]
    if configs and len(defaults) != 1:
        raise UserError(
            f"{readme}: the dataset has several subsets ({', '.join(names)}); name one in "
            "data.options.subset"
        )
    return next(iter(defaults), None)


def _patterns(data_files: Any) -> Iterator[tuple[str, str]]:
    """Yield each split with each of its patterns, from the forms that Hugging Face allows."""
    if isinstance(data_files, dict):
        splits = list(data_files.items())
    elif isinstance(data_files, list) and any(isinstance(item, dict) for item in data_files):
        splits = [(item["split"], item["path"]) for item in data_files]
    else:
        splits = [("train", data_files)]
    for split, paths in splits:
        for path in paths if isinstance(paths, list) else [paths]:
            if not (isinstance(split, str) and isinstance(path, str)):
                raise TypeError(f"split {split!r:.40} and path {path!r:.40} are not text")
            yield split, path
