"""Replayed traces: semantics, assignment, drop-out, and wrong files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.core.errors import UserError
from testbed.core.registries import AVAILABILITIES
from testbed.fleet.availability import Availability
from testbed.fleet.availability_traces import Trace, read_traces

GOOD = {"active": [0, 50], "inactive": [10, 80], "finish_time": 100, "model": "CPH1801"}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def model(path: Path, fleet_size: int, **options: Any) -> Availability:
    return AVAILABILITIES.create("trace", {"path": str(path), **options}, fleet_size=fleet_size)


def test_sessions_by_hand() -> None:
    trace = Trace((0.0, 50.0), (10.0, 80.0), 100.0)
    online = [0, 9.99, 50, 79.9, 100, 155]
    offline = [10, 30, 49.9, 80, 99, 110, 180]
    assert all(trace.online(time) for time in online)
    assert not any(trace.online(time) for time in offline)


def test_one_trace_replays_as_recorded(tmp_path: Path) -> None:
    replay = model(write(tmp_path / "t.json", {"phone": GOOD}), 1)
    answers = [replay.online(0, float(time), 0, 5) for time in range(300)]
    assert answers == [time % 100 < 10 or 50 <= time % 100 < 80 for time in range(300)]


def test_larger_fleets_replay_out_of_step(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", [GOOD, GOOD])
    replay = model(path, 200)
    share = [np.mean([replay.online(d, float(t), 0, 1) for d in range(200)]) for t in range(100)]
    assert np.mean(share) == pytest.approx(0.4, abs=0.03)  # 40 of 100 s online
    assert np.std(share) < 0.1  # all devices in phase would give 0.49
    again = model(path, 200)
    assert [again.online(d, 7.0, 0, 1) for d in range(200)] == [
        replay.online(d, 7.0, 0, 1) for d in range(200)
    ]


def test_drop_out(tmp_path: Path) -> None:
    always = {"active": [0], "inactive": [100], "finish_time": 100}
    replay = model(write(tmp_path / "t.json", [always]), 10, drop_out=0.2)
    answers = [replay.online(d, 1.0, key, 1) for d in range(10) for key in range(300)]
    assert np.mean(answers) == pytest.approx(0.8, abs=0.03)
    diurnal = AVAILABILITIES.create("diurnal", {"drop_out": 0.99}, fleet_size=10)
    assert not all(diurnal.online(d, 1.0, key, 1) for d in range(10) for key in range(20))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (7, "a trace file is a list of traces"),
        ([], "holds no trace"),
        ([GOOD, 5], "trace '1': must be an object, got 5"),
        ([{"active": [], "inactive": []}], "trace '0', key 'finish_time': is missing"),
        ([GOOD | {"finish_time": 0}], "key 'finish_time': must be a number of seconds above 0"),
        ([GOOD | {"finish_time": "1 d"}], "key 'finish_time': must be a number of seconds above 0"),
        ([GOOD | {"finish_time": 10**400}], "'finish_time': must be a number of seconds above 0"),
        ([GOOD | {"active": [True, 50]}], "key 'active[0]': must be a number of at least 0"),
        ([GOOD | {"active": 3}], "key 'active': must be a list of seconds"),
        ([GOOD | {"active": [0, "x"]}], "key 'active[1]': must be a number of at least 0, got 'x'"),
        ([GOOD | {"active": [0, True]}], "key 'active[1]': must be a number of at least 0"),
        ([GOOD | {"active": [0]}], "key 'inactive': has 2 entries, but 'active' has 1"),
        ([GOOD | {"active": [0, 5]}], "key 'active[1]': 5 s is before the end of the session"),
        ([GOOD | {"inactive": [10, 40]}], "key 'inactive[1]': 40 s is before its session starts"),
        ({"a": GOOD | {"inactive": [10, 101]}}, "trace 'a', key 'inactive[1]': 101 s is after"),
    ],
)
def test_wrong_traces_are_named(tmp_path: Path, content: Any, says: str) -> None:
    path = write(tmp_path / "t.json", content)
    with pytest.raises(UserError) as caught:
        read_traces(path)
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the traces"):
        read_traces(tmp_path / "nowhere.json")
    for content in (b"\xff\xfe", b"{", b"[" * 100_000, b"[NaN]"):
        (tmp_path / "t.json").write_bytes(content)
        with pytest.raises(UserError):
            read_traces(tmp_path / "t.json")


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        path = tmp_path / f"{encoding}.json"
        path.write_text(json.dumps({"phone": GOOD}), encoding=encoding)
        assert read_traces(path)[0].starts_s == (0.0, 50.0)
