"""Files written by runs: results, checkpoints and sweeps, and the commands that overwrite them."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from hypothesis import strategies as st

from fuzzing.campaign import everything_in
from fuzzing.hostile import hostile_pickle
from fuzzing.inputs import LARGEST_FLEET
from fuzzing.mutations import damaged_bytes, damaged_trees
from fuzzing.targets import Target, json_bytes, yaml_bytes
from testbed import run as command_line
from testbed.compare import __main__ as comparison
from testbed.compare.analysis.runs import read_run
from testbed.core.errors import UserError
from testbed.engine.training.checkpoint import load_latest, write_tensors
from testbed.results.reading import read_results
from testbed.results.writing import DEVICES, ENTRY, RESOLVED, SAMPLES, FinishedArm, read_arm
from testbed.scenario.loading import load_scenario
from testbed.sweep.folder import MANIFEST, SweepFolder, check_sweep_folder, open_sweep_folder
from testbed.sweep.grid import expand
from testbed.sweep.index import rows_of

TABLES = ("rounds", "devices", "requests", "attacks")
LARGEST_NUMBER = 5000
"""Scenarios with larger ones are valid, and what they ask for takes longer than it tells."""


class ReachedError(BaseException):
    """A command accepted its input and reached the start of its work."""


def result_targets(folder: Path, finished: Path) -> list[Target]:
    """Return the targets for all files read from finished and interrupted runs.

    Parameters
    ----------
    folder : where copies of the run are made.
    finished : a valid results folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = [
        _result(folder / name.replace("/", "-").replace(".", "-"), finished, name)
        for name in (
            *("results.json", "reconstructions/samples.npz"),
            *(f"{table}.parquet" for table in TABLES),
        )
    ]
    (first, *_) = sorted((finished / "checkpoints").iterdir())
    targets += [
        _checkpoint(folder / "checkpoint", first),
        *(_arm(folder / f"arm-{name}", first, name) for name in (ENTRY, SAMPLES, DEVICES)),
        _over_results(folder / "force", finished),
        _resumed(folder / "resume", finished),
        _compared(folder / "compare", finished),
        _point(folder / "sweep", finished),
        _list_of_points(folder / "list"),
    ]
    return targets


def _trees_and_bytes(sound: bytes, tree: Any, dump: Callable[[object], bytes]) -> Any:
    return st.one_of(damaged_bytes(sound), damaged_trees(tree).map(dump))


def _copied(finished: Path, copy: Path, *without: str) -> Path:
    """Copy a results folder, without large files that are not read."""
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("plots", *without))
    return copy


# Read by report and comparison ------------------------------------------------------------------


def _result(copy: Path, finished: Path, name: str) -> Target:
    _copied(finished, copy, "checkpoints")

    def read(path: Path) -> None:
        read_results(copy)  # the report
        read_run(copy)  # the comparison

    sound = (finished / name).read_bytes()
    contents: st.SearchStrategy[bytes] = damaged_bytes(sound)
    if name.endswith(".json"):
        contents = _trees_and_bytes(sound, json.loads(sound), json_bytes)
    if name.endswith(".npz"):
        contents = st.one_of(contents, st.just(_pickled_arrays(copy / name)))
    return Target(f"results, {Path(name).name}", contents, copy / name, read, (sound,))


def _pickled_arrays(sound: Path) -> bytes:
    """Return the archive with an object in place of every array.

    numpy writes objects as pickles; this pickle calls a function when it is loaded.
    """
    with np.load(sound, allow_pickle=False) as archive:
        names = archive.files
    file = io.BytesIO()
    pickled: Any = {name: np.array([{1, 2}, print], dtype=object) for name in names}
    np.savez(file, **pickled)
    return file.getvalue()


def _compared(copy: Path, finished: Path) -> Target:
    run = _copied(finished, copy / "run", "checkpoints")
    out = copy / "comparison"
    out.mkdir()
    (out / "compare.json").write_text("{}", encoding="utf-8")
    arguments = [str(run), "--out", str(out), "--force", "--resamples", "100"]

    def read(path: Path) -> None:
        with _stopped_at("testbed.compare.build.write_comparison"):
            _said(comparison.main, arguments)

    sound = (finished / "results.json").read_bytes()
    return Target(
        "compare --force, results.json",
        damaged_trees(json.loads(sound)).map(json_bytes),
        run / "results.json",
        read,
        (sound,),
        weight=0.25,
        kept=out,
    )


# Read by --resume -------------------------------------------------------------------------------


def _checkpoint(copy: Path, arm: Path) -> Target:
    copy.mkdir()
    newest = Path(shutil.copy(max(arm.glob("round-*")), copy))
    sound, whole = newest.read_bytes(), _state(copy)
    fallback: State = ({"made": torch.ones(2)}, {"round": 0})
    write_tensors(copy / "round-000000.safetensors", *fallback)

    def read(path: Path) -> None:
        said: list[str] = []
        found = load_latest(copy, said.append)
        assert found is not None, "the one before was lost as well"
        assert _same(found, fallback if said else whole), "other weights, and nothing said"
        if said:
            raise UserError(said[0])

    contents = st.one_of(damaged_bytes(sound), st.binary(max_size=64), st.just(hostile_pickle()))
    return Target("checkpoint of a round", contents, newest, read, (sound,), weight=0.75)


State = tuple[dict[str, torch.Tensor], dict[str, Any]]


def _state(folder: Path) -> State:
    found = load_latest(folder)
    assert found is not None
    return found


def _same(one: State, other: State) -> bool:
    """Say whether two checkpoints have the same bytes; unknown numbers in them are NaN."""
    return json.dumps(one[1]) == json.dumps(other[1]) and _bytes(one[0]) == _bytes(other[0])


def _bytes(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


def _figures(arm: FinishedArm) -> tuple[Any, ...]:
    return arm.result.tree(), [check.tree() for check in arm.checks], arm.tables, arm.devices


def _arm(copy: Path, arm: Path, name: str) -> Target:
    shutil.copytree(arm, copy, ignore=shutil.ignore_patterns("round-*"))
    sound = (copy / name).read_bytes()
    whole = read_arm(copy)
    assert whole is not None

    def read(path: Path) -> None:
        said: list[str] = []
        found = read_arm(copy, said.append)
        if said:
            assert found is None
            raise UserError(said[0])
        assert found is not None
        assert _figures(found) == _figures(whole), "other figures without a message"
        assert found.samples.keys() == whole.samples.keys()
        assert all(np.array_equal(found.samples[key], whole.samples[key]) for key in whole.samples)

    contents: st.SearchStrategy[bytes] = damaged_bytes(sound)
    if name.endswith(".json"):
        contents = _trees_and_bytes(sound, json.loads(sound), json_bytes)
    return Target(f"checkpoint of an arm, {name}", contents, copy / name, read, (sound,), 0.5)


def _resumed(copy: Path, finished: Path) -> Target:
    run = _copied(finished, copy / "run")
    scenario = copy / "scenario.yaml"
    sound = (finished / RESOLVED).read_bytes()
    scenario.write_bytes(sound)

    def read(path: Path) -> None:
        with _stopped_at("testbed.engine.experiment.read_run_inputs"):
            _said(command_line.main, [str(scenario), "--out", str(run), "--resume"])

    return Target(
        f"--resume, {RESOLVED}",
        _trees_and_bytes(sound, yaml.safe_load(sound), yaml_bytes),
        run / RESOLVED,
        read,
        (sound,),
        weight=0.75,
        kept=run,
    )


def _point(copy: Path, finished: Path) -> Target:
    """Return the target for a point of a sweep, as --resume and the index read it."""
    tree = yaml.safe_load((finished / RESOLVED).read_bytes())
    points = expand({**tree, "sweep": {"seed": [tree["seed"]]}}, [], "made")
    run = _copied(finished, copy / points[0].name, "checkpoints")
    SweepFolder(copy, points).save()
    sound = (finished / "results.json").read_bytes()

    def read(path: Path) -> None:
        check_sweep_folder(copy, points, resume=True)
        sweep = SweepFolder(copy, points)
        rows = rows_of(sweep)
        assert rows[0]["point"] == points[0].name
        for error in sweep.errors.values():
            raise UserError(error)

    contents = _trees_and_bytes(sound, json.loads(sound), json_bytes)
    name = "point of a sweep, results.json"
    return Target(name, contents, run / "results.json", read, (sound,), 0.5, kept=copy)


# Written over by --force ------------------------------------------------------------------------


def _over_results(copy: Path, finished: Path) -> Target:
    run = _copied(finished, copy / "run")
    sound = (finished / RESOLVED).read_bytes()

    def read(path: Path) -> None:
        with _stopped_at("testbed.engine.experiment.open_folder"):
            if _is_small(path):
                _said(command_line.main, [str(path), "--out", str(run), "--force"])

    return Target(
        "--force, scenario",
        _trees_and_bytes(sound, yaml.safe_load(sound), yaml_bytes),
        copy / "scenario.yaml",
        read,
        (sound,),
        weight=0.5,
        kept=run,
    )


def _is_small(path: Path) -> bool:
    """Say whether a scenario is small, or not a scenario."""
    try:
        scenario = load_scenario(path)
    except UserError:
        return True
    sections = scenario.model_dump(include={"data", "fleet", "arms"})
    numbers = list(_numbers(sections))
    return scenario.fleet.size <= LARGEST_FLEET and max(numbers) <= LARGEST_NUMBER


def _numbers(tree: Any) -> Iterator[float]:
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _numbers(value)
    elif isinstance(tree, int | float):
        yield abs(tree)


def _list_of_points(copy: Path) -> Target:
    """Return the target for the list of a sweep's points, of which --force removes the folders."""
    sweep = copy / "inner" / "sweep"
    names = ("seed-0", "../outside", "../../outside", "notes", "..", "mine/deeper")
    tree = {"version": 1, "points": [{"name": name, "values": {}} for name in names]}

    def lay_out() -> None:
        for place in (copy, copy / "inner", sweep):
            for name in ("outside", "mine/deeper", "notes"):
                (place / name).mkdir(parents=True, exist_ok=True)
                (place / name / "kept.txt").write_text("kept", encoding="utf-8")
            (place / "outside" / RESOLVED).write_text("a run", encoding="utf-8")
            (place / "mine" / "deeper" / RESOLVED).write_text("a run", encoding="utf-8")
        (sweep / "seed-0").mkdir(exist_ok=True)
        (sweep / "seed-0" / RESOLVED).write_text("a run", encoding="utf-8")

    def read(path: Path) -> None:
        lay_out()
        before = _apart_from_points(copy)
        open_sweep_folder(sweep, [], force=True)
        assert _apart_from_points(copy) == before, "more was removed than points"

    def _apart_from_points(place: Path) -> dict[str, bytes]:
        own = (f"inner/sweep/{MANIFEST}", "inner/sweep/seed-0")
        return {
            name: content
            for name, content in everything_in(place).items()
            if not name.startswith(own)
        }

    lay_out()
    sound = json_bytes(tree)
    contents = _trees_and_bytes(sound, tree, json_bytes)
    name, path = f"--force on a sweep, {MANIFEST}", sweep / MANIFEST
    return Target(name, contents, path, read, (sound,), 0.75, may_refuse=False)


# Commands ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _stopped_at(function: str) -> Iterator[None]:
    """Stop a command at the call of a function, before its work begins."""
    with mock.patch(function, side_effect=ReachedError), contextlib.suppress(ReachedError):
        yield


def _said(main: Callable[[list[str]], int], arguments: Sequence[str]) -> None:
    """Run a command in this process.

    Raises
    ------
    UserError : its message on standard error, if it refused the input.
    """
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(list(arguments))
    said = errors.getvalue()
    assert code in (1, 2), f"exit code {code}: {said}"
    assert "Traceback" not in said, said
    (*phases, sentence) = said.strip().splitlines()
    assert all(line.endswith("done") for line in phases), said
    assert sentence.startswith(("error: ", "failed: ")), said
    raise UserError(sentence)
