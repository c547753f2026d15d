"""Plain scalars mean what they look like, or are refused with how to write them."""

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small import TINY

from testbed.core.errors import UserError
from testbed.scenario.loading import (
    dump_scenario,
    load_scenario,
    parse_overrides,
    parse_yaml,
    resolve,
    validate_scenario,
)
from testbed.sweep.grid import expand_files


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("123", 123),
        ("-7", -7),
        ("+5", 5),
        ("0", 0),
        ("0x1F", 31),
        ("0o17", 15),
        ("1e3", 1000.0),
        ("1.5E-3", 0.0015),
        ("1.", 1.0),
        ("-.5", -0.5),
        ("0123.5", 123.5),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        *((text, text) for text in ("yes", "No", "on", "OFF", "y", "1:20", "1:20:30.5", "1_000")),
        *((text, text) for text in ("2026-11-30", "0b11", "=", "<<", "1e", "nan", "1,5", "'0123'")),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(written: str, value: object) -> None:
    wanted = value.strip("'") if isinstance(value, str) else value
    read = parse_yaml(f"key: {written}", "x.yaml")["key"]
    assert (read, type(read)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed=0123", "0123 has leading zeros; write 123 for the number, or '0123' in quotes"),
        ("seed=-007", "-007 has leading zeros; write -7 for the number"),
        ("seed=089", "write 89 for the number"),
        ("seed=1:20", "seed: input should be a valid integer, got '1:20'; write a plain number"),
        ("seed=1_000", "seed: input should be a valid integer, got '1_000'; write 1000 without"),
        ("seed=1e3", "seed: input should be a valid integer, got 1000.0; write 1000"),
        ("seed='12'", "got '12'; write 12 without quotes"),
        ("seed=yes", "seed: input should be a valid integer, got 'yes'"),
        ("arms.sift.defence.beta=0,4", "got '0,4'; write a plain number, with a point before"),
        ("fleet.mix.0.weight=1:20", "fleet.mix.0.weight: input should be a valid number, got"),
        ("training.reuse_models=no", "got 'no'; write true or false"),
        ("name=123", "name: input should be a valid string, got 123; write a text in quotes"),
        ("fleet.mix.0.links={wifi: 01}", "wifi: 01 has leading zeros"),
        ("fleet={size: 8, size: 9}", "the key 'size' is given twice"),
    ],
)
def test_what_is_read_in_two_ways_is_refused(override: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(TINY, parse_overrides([override]), "x.yaml")
    assert says in str(caught.value)


def test_files_and_sweeps_refuse_with_the_place_and_the_key_path(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\nfleet:\n  mix:\n  - {weight: 010}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_scenario(path)
    assert str(caught.value).startswith(
        f"{path}, line 4, column 14: fleet.mix.0.weight: 010 has leading zeros; write 10"
    )
    path.write_text(yaml.safe_dump(TINY) + "sweep: {seed: [1, 010]}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"sweep.seed.1: 010 has leading zeros"):
        expand_files([path], [])
    path.write_text(yaml.safe_dump(TINY) + "sweep: {seed: [1, 1:20]}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"seed: .*got '1:20'"):
        expand_files([path], [])


LOOK_ALIKES = st.from_regex(r"[0-9+._:eExob-]{1,6}|[yYnNoO][a-zA-Z]{0,4}|~|=|<<", fullmatch=True)


@settings(max_examples=150, deadline=None)
@given(st.one_of(LOOK_ALIKES, st.text(min_size=1, max_size=8)))
@example("1e3")
@example("0o17")
@example("no")
@example("012")
@example("0_9")
@example("2026-11-30")
@example("true")
@example("a\x85b")
@example("\u2028")
def test_every_text_survives_the_resolved_scenario(text: str) -> None:
    section = TINY["data"] | {"path": text}
    try:
        scenario = validate_scenario(TINY | {"data": section}, "x.yaml")
        dumped = dump_scenario(scenario)
    except (UserError, UnicodeEncodeError):  # such as lone surrogates
        return
    assert parse_yaml(dumped, "x.yaml")["data"]["path"] == text
    assert yaml.safe_load(dumped)["data"]["path"] == text  # for readers of YAML 1.1
