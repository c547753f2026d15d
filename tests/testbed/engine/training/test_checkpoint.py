"""Checkpoints are restored exactly, or reported as damaged and skipped."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from testbed.core.errors import UserError
from testbed.engine.training import checkpoint
from testbed.engine.training.fleet import restore

OLD = ({"w": torch.zeros(3)}, {"round": 1})


@pytest.fixture
def saved():
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "weights": torch.randn(40, 30, generator=generator),
        "halves": torch.randn(5, generator=generator).to(torch.bfloat16),
        "counts": torch.arange(7),
        "flags": torch.tensor([True, False]),
        "step": torch.tensor(2.5),
        "none": torch.zeros(0, 4),
        "empty column": torch.from_numpy(np.zeros((0, 3)).T.copy()[0]),  # its stride is 0
    }
    return tensors, {"round": 2, "rows": [{"loss": 0.1}]}


def same(found, expected):
    return (
        found[0].keys() == expected[0].keys()
        and all(torch.equal(value, expected[0][name]) for name, value in found[0].items())
        and all(value.dtype == expected[0][name].dtype for name, value in found[0].items())
        and found[1] == expected[1]
    )


def test_a_checkpoint_is_restored_and_gives_the_same_bytes(tmp_path, saved):
    checkpoint.save(tmp_path / "one", 2, *saved)
    assert same(checkpoint.load_latest(tmp_path / "one"), saved)
    checkpoint.save(tmp_path / "two", 2, *reversed_order(saved))
    one, two = (next((tmp_path / name).iterdir()).read_bytes() for name in ("one", "two"))
    assert one == two


def reversed_order(saved):
    return dict(reversed(saved[0].items())), saved[1]


def changed_byte(content, share):
    place = int(share * len(content))
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:8],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        *(lambda content, share=share: changed_byte(content, share) for share in (0.0, 0.02, 0.05)),
        *(lambda content, share=share: changed_byte(content, share) for share in (0.3, 0.6, 0.999)),
    ],
)
def test_any_damage_is_reported_and_falls_back_on_the_previous_one(tmp_path, saved, damage):
    checkpoint.save(tmp_path, 1, *OLD)
    checkpoint.save(tmp_path, 2, *saved)
    newest = tmp_path / "round-000002.safetensors"
    newest.write_bytes(damage(newest.read_bytes()))
    said = []
    assert same(checkpoint.load_latest(tmp_path, said.append), OLD)
    assert said == [f"{newest} is damaged; falling back on the one before"]
    (tmp_path / "round-000001.safetensors").write_bytes(b"x")
    assert checkpoint.load_latest(tmp_path) is None


def test_intact_checkpoints_of_another_run_are_refused_in_a_sentence(tmp_path):
    checkpoint.save(tmp_path, 1, *OLD)
    tier = SimpleNamespace(parameters={"other": torch.zeros(1)}, statistics={}, strategy=object())
    arm = SimpleNamespace(server=SimpleNamespace(tiers=[tier]))
    with pytest.raises(UserError, match=r"belong to another run \(KeyError\('other'\)\).*--force"):
        restore(arm, tmp_path)
