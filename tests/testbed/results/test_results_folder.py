"""The results folder: replaced only once the new can be written, and arms kept with checksums."""

import errno
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small import filled

from testbed.core.errors import UserError
from testbed.results.columns import TABLES, arrow_schema
from testbed.results.schema import ArmResult, SelfCheck
from testbed.results.writing import (
    DEVICES,
    ENTRY,
    FINISHED,
    RESOLVED,
    SAMPLES,
    FinishedArm,
    check_folder,
    open_folder,
    read_arm,
    write_arm,
)
from testbed.scenario.loading import load_scenario, validate_scenario


@pytest.fixture
def old(tmp_path):
    """A folder with results in it, of which ``--force`` would make an empty one."""
    folder = tmp_path / "run"
    (folder / "plots").mkdir(parents=True)
    for name in (RESOLVED, "results.json", "plots/energy.png"):
        (folder / name).write_text(f"old {name}")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "photo.jpg").write_text("kept")
    (folder / "link").symlink_to(tmp_path / "precious")
    return folder


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_old_results_make_way_for_the_new_scenario(tiny, old, tmp_path):
    scenario = validate_scenario(tiny, "test")
    open_folder(old, scenario, resume=False)
    assert files(old) == [RESOLVED]
    assert load_scenario(old / RESOLVED) == scenario
    assert (tmp_path / "precious" / "photo.jpg").exists()  # a link is removed, not what it leads to
    open_folder(tmp_path / "new" / "run", scenario, resume=False)
    assert files(tmp_path / "new" / "run") == [RESOLVED]
    linked = tmp_path / "linked"
    linked.symlink_to(old)
    (old / "results.json").write_text("old")
    open_folder(linked, scenario, resume=False)
    assert files(old) == [RESOLVED]


def test_where_nothing_can_be_written_nothing_is_removed(tiny, old, monkeypatch):
    before = {name: (old / name).read_bytes() for name in files(old) if (old / name).is_file()}

    def full(path, text, **options):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space"):
        open_folder(old, validate_scenario(tiny, "test"), resume=False)
    assert {name: (old / name).read_bytes() for name in before} == before
    assert not list(old.glob("*.tmp"))


def test_a_run_that_was_killed_in_its_first_file_starts_anew(tiny, tmp_path):
    scenario = validate_scenario(tiny, "test")
    (tmp_path / f"{RESOLVED}.tmp").write_text("name: ti")
    check_folder(tmp_path, scenario, force=False, resume=False)
    open_folder(tmp_path, scenario, resume=False)
    assert files(tmp_path) == [RESOLVED]
    with pytest.raises(UserError, match="results exist already"):
        check_folder(tmp_path, scenario, force=False, resume=False)


# Finished arms ----------------------------------------------------------------------------------


@pytest.fixture
def arm(tmp_path):
    result = ArmResult.model_validate(filled(ArmResult, {"name": "a"}))
    checks = [SelfCheck(name="a: adds up", passed=True, detail="1 of 1")]
    samples = {"original/a/b": np.arange(12, dtype=np.uint8)}
    rows = {column.name: [None, None] for column in TABLES["devices"]} | {"device": [0, 1]}
    devices = pa.table(rows, schema=arrow_schema("devices"))
    write_arm(tmp_path, FinishedArm(result, checks, {"rounds": [{"loss": 0.25}]}, samples, devices))
    return tmp_path


def test_a_finished_arm_comes_back(arm):
    stored = read_arm(arm)
    assert (stored.result.name, stored.tables) == ("a", {"rounds": [{"loss": 0.25}]})
    assert [check.passed for check in stored.checks] == [True]
    assert stored.devices["device"].to_pylist() == [0, 1]
    assert stored.samples["original/a/b"].tolist() == list(range(12))
    said = []
    assert read_arm(arm / "unfinished", said.append) is None
    assert said == []


@pytest.mark.parametrize("name", [ENTRY, SAMPLES, DEVICES, FINISHED])
def test_a_damaged_one_is_said_and_not_used(arm, name):
    content = (arm / name).read_bytes()
    changed = content.replace(b"0.25", b"0.26")  # valid, and wrong
    if name != ENTRY:
        changed = bytes([*content[:-9], content[-9] ^ 1, *content[-8:]])
    for damaged in (changed, content[: len(content) // 2], b"[" * 100_000):
        assert damaged != content
        (arm / name).write_bytes(damaged)
        said = []
        assert read_arm(arm, said.append) is None
        assert said == [
            f"{arm}: what was kept of this finished arm is damaged; it is finished again"
        ]


def test_an_arm_is_finished_with_its_last_file(arm):
    assert json.loads((arm / FINISHED).read_text())["crc32"].keys() == {ENTRY, SAMPLES, DEVICES}
    (arm / FINISHED).unlink()
    assert read_arm(arm) is None
