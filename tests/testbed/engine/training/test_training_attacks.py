"""Adversaries at the cloud during training: whole runs, interruption, and what they change."""

import copy

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from small import TINY
from whole_runs import StopAt, results_of, run

from testbed.engine.training.attackers import label_gap

SIMULATOR = {"name": "sdar", "updates_per_step": 1}
MALICIOUS = {"name": "fsha", "pilot_steps": 8, "updates_per_step": 1}


def hijacked_tree():
    """Return an honest and a hijacked arm with two tiers, and both kinds of attackers."""
    tree = copy.deepcopy(TINY)
    tree["training"]["checkpoint_every_rounds"] = 1
    own = tree["arms"][0]
    tree["arms"] = [own, own | {"name": "hijacked", "hijacked_by": "malicious"}]
    cloud = {"position": {"tap": "cloud"}}
    tree["adversaries"] = [
        {"name": "curious", **cloud, "attack": SIMULATOR},
        {"name": "malicious", **cloud, "attack": MALICIOUS},
    ]
    narrow = {"name": "narrow", "devices": ["mcu"], "front_end": {"width": 16}}
    tree["fleet"]["assignments"] = [narrow]
    return tree


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = run(hijacked_tree(), tmp_path_factory.mktemp("attackers") / "run")
    return folder, results_of(folder)


def test_each_arm_is_attacked_by_the_adversaries_that_watched_it(finished):
    _, results = finished
    assert [check["name"] for check in results["self_checks"] if not check["passed"]] == []
    honest, hijacked = results["arms"]
    assert {entry["adversary"] for entry in honest["attacks"]} == {"curious"}
    assert {entry["adversary"] for entry in hijacked["attacks"]} == {"curious", "malicious"}
    conduct = {entry["attack"]: entry["conduct"] for entry in hijacked["attacks"]}
    assert (conduct["sdar"], conduct["fsha"]) == ("passive", "malicious training")
    assert all(len(entry["by_tier"]) == 2 for entry in hijacked["attacks"])
    assert all(entry["queries"] == 0 for entry in hijacked["attacks"])


def test_the_hijack_is_reported_beside_the_honest_arm(finished):
    folder, results = finished
    assert results["arms"][0]["hijack"] is None
    hijack = results["arms"][1]["hijack"]
    assert (hijack["adversary"], hijack["honest_arm"]) == ("malicious", "undefended")
    assert hijack["batches"] > 5
    assert hijack["label_gap_sent"] != hijack["label_gap_honest"]
    page = (folder / "report.html").read_text()
    assert 'id="table-hijacks"' in page
    assert "its cloud is malicious (fsha, malicious)" in page
    assert "Malicious: it deviates from the training protocol." in page


def test_an_interrupted_run_goes_on_with_the_attackers_memory(finished, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(hijacked_tree(), folder, StopAt("train hijacked", 2))
    run(hijacked_tree(), folder, resume=True)
    assert (folder / "results.json").read_bytes() == (finished[0] / "results.json").read_bytes()


def test_watching_changes_no_bit_of_the_training(finished, tmp_path):
    tree = hijacked_tree()
    tree["arms"], tree["adversaries"] = tree["arms"][:1], []
    alone = run(tree, tmp_path / "alone")

    def rounds(folder):
        rows = pq.read_table(folder / "rounds.parquet").to_pylist()
        return [row for row in rows if row["arm"] == "undefended"]

    assert rounds(alone) == rounds(finished[0])
    assert len(rounds(alone)) == TINY["training"]["rounds"]


def test_the_label_gap_is_the_difference_of_mean_cosines():
    directions = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])[:, :, None, None]
    assert label_gap(directions, torch.tensor([0, 0, 1, 1])) == pytest.approx(1.0)
    assert label_gap(directions, torch.tensor([0, 1, 0, 1])) == pytest.approx(-0.5)
    assert label_gap(directions, torch.tensor([0, 1, 2, 3])) is None
    assert label_gap(directions, torch.tensor([0, 0, 0, 0])) is None
    assert np.isfinite(label_gap(0.0 * directions, torch.tensor([0, 0, 1, 1])))
