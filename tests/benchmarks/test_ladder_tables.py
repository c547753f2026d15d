"""The command behind docs/ladder.md: its runs, and the tables that it writes."""

import copy
from pathlib import Path

import ladder_tables
import pytest
import yaml
from small import TINY

DOCUMENT = Path(ladder_tables.ROOT / "docs" / "ladder.md")


@pytest.fixture
def tiny_ladders(tmp_path, monkeypatch, without_figures):
    """Replace all scenarios by one that takes a second."""
    tree = copy.deepcopy(TINY)
    tree["data"]["max_images"] = 200
    tree["training"]["rounds"] = 1
    tree["arms"] = tree["arms"][:1]
    tree["adversaries"] = tree["adversaries"][1:]
    found = {}
    for data in ladder_tables.SCENARIOS:
        path = tmp_path / f"{data}.yaml"
        path.write_text(yaml.safe_dump(tree | {"name": f"tiny_{data}"}))
        found[data] = path
    monkeypatch.setattr(ladder_tables, "SCENARIOS", found)
    monkeypatch.chdir(tmp_path)


def between(text, data, table):
    block = ladder_tables.blocks_of(data)[table]
    return text.partition(block.begin)[2].partition(block.end)[0].strip()


@pytest.mark.usefixtures("tiny_ladders")
def test_one_command_runs_compares_writes_and_resumes(tmp_path, capsys):
    document = tmp_path / "ladder.md"
    document.write_text(DOCUMENT.read_text())
    command = ["--data", "cifar10", "--seeds", "0", "--out", "out", "--document", str(document)]
    assert ladder_tables.main(command) == 0
    text = document.read_text()
    assert between(text, "cifar10", 0).count("\n| undefended |") == 1
    assert "\n| cloud | ridge | cloud |" in between(text, "cifar10", 1)
    assert "--data cifar10 --seeds 0`: digits, seed 0;" in between(text, "cifar10", 1)
    assert (tmp_path / "out" / "compared" / "cifar10" / "compare.json").exists()
    begin = ladder_tables.blocks_of("cifar10")[0].begin
    assert text.partition(begin)[0] == DOCUMENT.read_text().partition(begin)[0]
    assert between(text, "olivetti", 1) == between(DOCUMENT.read_text(), "olivetti", 1)
    # What is there is not run again, and gives the same tables.
    capsys.readouterr()
    assert ladder_tables.main(command) == 0
    assert "tiny_cifar10_seed-0: complete already" in capsys.readouterr().err
    assert document.read_text() == text
    # What the results were made with cannot be changed under them.
    assert ladder_tables.main([*command, "--set", "training.rounds=2"]) == 2
    assert document.read_text() == text


@pytest.mark.usefixtures("tiny_ladders")
def test_a_failed_run_fails_the_command_and_keeps_its_tables(tmp_path, monkeypatch, capsys):
    document = tmp_path / "ladder.md"
    document.write_text(DOCUMENT.read_text())

    class Sweep:
        def __init__(self):
            self.errors = {"tiny_cifar10_seed-0": "no disk"}

        def status(self, point):
            return "failed" if point.name in self.errors else "complete"

        def of(self, point):
            return tmp_path / point.name

    monkeypatch.setattr(ladder_tables, "run_all", lambda points, options: Sweep())
    monkeypatch.setattr(ladder_tables, "tables_of", lambda *given: ["arms", "attacks"])
    assert ladder_tables.main(["--seeds", "0", "--document", str(document)]) == 1
    assert "failed: tiny_cifar10_seed-0: no disk" in capsys.readouterr().err
    text = document.read_text()
    assert [between(text, "olivetti", table) for table in (0, 1)] == ["arms", "attacks"]
    assert between(text, "cifar10", 0) == between(DOCUMENT.read_text(), "cifar10", 0)


def test_runs_differ_by_their_seeds_alone_and_take_one_thread():
    points = ladder_tables.points_of("olivetti", [3, 1], ["training.provider.epochs=2"])
    assert [point.name for point in points] == ["olivetti_ladder_seed-3", "olivetti_ladder_seed-1"]
    for point, seed in zip(points, (3, 1), strict=True):
        assert point.scenario.seed == seed
        assert point.scenario.training.provider.epochs == 2
        assert (point.scenario.engine.backend, point.scenario.engine.cloud_threads) == ("inline", 1)
        assert point.scenario.training.provider.threads == 1


def ladder_of(data):
    return ladder_tables.points_of(data, [0], [])[0].scenario


def test_the_digits_ladder_has_the_attacks_on_all_victims_with_queries_or_weights():
    assert {adversary.attack.name for adversary in ladder_of("digits").adversaries} == {
        *("ridge", "kernel_ridge", "residual_decoder", "averaged_decoder"),
        *("white_box", "learned_prior"),
    }
    assert {adversary.position.tap for adversary in ladder_of("digits").adversaries} == {"cloud"}


def test_both_large_ladders_have_the_same_arms_and_every_attack_that_needs_no_fleet_training():
    ladders = [ladder_of(data) for data in ("cifar10", "olivetti")]
    assert ladders[0].arms == ladders[1].arms
    for scenario in ladders:
        mounted = {adversary.attack.name for adversary in scenario.adversaries}
        assert mounted == {
            *("ridge", "kernel_ridge", "residual_decoder", "white_box", "learned_prior"),
            *("substitute", "label_inference"),
        }


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--set", "seed=4"], "give --seeds"),
        (["--set", "sweep.seed=[4]"], "give --seeds"),
        (["--set", "training.provider.epoch=4"], "training.provider.epoch"),
        (["--document", "other.md"], "--attacks-markdown (olivetti): begin"),
        (["--jobs", "0"], "--jobs 0"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_runs(wrong, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.md").write_text(
        "".join(
            f"{block.begin}\n{block.end}\n"
            for block in [
                *ladder_tables.blocks_of("digits"),
                *ladder_tables.blocks_of("cifar10"),
                ladder_tables.blocks_of("olivetti")[0],
            ]
        )
    )
    assert ladder_tables.main(["--out", "out", "--document", "new.md", *wrong]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"other.md"}
