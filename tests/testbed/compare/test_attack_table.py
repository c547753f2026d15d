"""The table of all attacks by arm: its rows, figures, and documents."""

import json

import numpy as np
import pytest
from runs_fixture import MEAN_IMAGE, UNDEFENDED, Arm, write_run
from small import write_results

from testbed.compare.__main__ import main
from testbed.compare.attack_rows import anchor_rows, attack_rows, inference_rows
from testbed.compare.comparison import compare
from testbed.compare.markdown import TABLES, attacks_markdown
from testbed.pages.documents import Block

ARMS = [UNDEFENDED, Arm("hidden", "nopeek", accuracy=0.93, mse=0.075)]
SHARES = (0.3, 0.4, 0.8)  # of classes named, per seed


def cells_of(text, first):
    """Return the cells of each line of a table that begins with a text."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {first} ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def share(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 200}


def write_labelled(folder, seed):
    """Write a run in which an adversary infers classes instead of rebuilding images."""
    run = write_run(folder / f"seed{seed}", seed, ARMS)
    tree = json.loads((run / "results.json").read_text())
    for arm in tree["arms"]:
        for attack in arm["attacks"]:
            attack |= {"position": "cloud", "pool_size": 50}
            if attack["adversary"] == "weak" and not attack["is_anchor"]:
                attack["rebuilds_images"] = False
                attack["inferred"] = {"class": share(SHARES[seed]), "majority_class": 0.1}
    write_results(run, tree)
    return run


@pytest.fixture(scope="module")
def labelled_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    return [write_labelled(folder, seed) for seed in range(3)]


def test_every_attack_has_a_row_with_its_scores_on_every_arm(tmp_path):
    compared = compare([write_run(tmp_path / "run", 0, ARMS)], resamples=200)
    assert [row.facts.attack for row in anchor_rows(compared)] == ["mean_image"]
    rows = attack_rows(compared)
    assert [(row.facts.adversary, row.facts.attack) for row in rows] == [
        ("weak", "residual_decoder"),
        ("strong", "residual_decoder"),
    ]
    weak, strong = rows
    for place, arm in enumerate(ARMS):
        found = strong.cells[place].scores
        assert found["mse"].value == pytest.approx(arm.mse)
        assert found["mse"].low < arm.mse < found["mse"].high
        assert weak.cells[place].scores["mse"].value == pytest.approx(1.5 * arm.mse)
        values = compared.runs[0].attacks.where(
            arm=arm.name, adversary="strong", attack="residual_decoder"
        )
        assert found["psnr_db"].value == pytest.approx(np.mean(values["psnr_db"]))
    # 1.5 x 0.075 is above the mean image's 0.08, 0.075 below it.
    assert [cell.failed for cell in weak.cells] == [False, True]
    assert [cell.failed for cell in strong.cells] == [False, False]
    assert strong.victims == [200, 200]


def test_the_table_marks_failures_and_the_best_of_each_column(tmp_path):
    compared = compare([write_run(tmp_path / "run", 0, ARMS)], resamples=200)
    text = attacks_markdown(compared, "the command")
    assert text.startswith("Made by `the command`: digits, seed 0;")
    (anchor,), (weak,), (strong,) = (cells_of(text, name) for name in ("anchor", "weak", "strong"))
    assert anchor[:5] == ["anchor", "mean image", "", "auxiliary images and queries", "200"]
    assert anchor[5].startswith(f"{MEAN_IMAGE:g}00 (")
    assert strong[5].startswith("**0.00400** (0.00")
    assert strong[6].startswith("**24.")
    assert strong[8].startswith("**0.0750** (")
    assert weak[8].startswith("0.112\\* (") or weak[8].startswith("0.113\\* (")
    # No victim is re-identified on the second arm, so no attack is best at it.
    assert [row[10] for row in (weak, strong)] == ["0.0\u202f%", "0.0\u202f%"]
    assert weak[7] == strong[7] == "**100.0\u202f%**"
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_decoders_stopped_at_their_limit_in_any_seed_are_marked(tmp_path):
    runs = [write_run(tmp_path / f"seed{seed}", seed, ARMS) for seed in range(2)]
    assert "\u2020" not in attacks_markdown(compare(runs, resamples=100), "x")  # older results
    for run, reached in zip(runs, (True, False), strict=True):
        tree = json.loads((run / "results.json").read_text())
        for attack in tree["arms"][0]["attacks"]:
            if not attack["is_anchor"]:
                strong = attack["adversary"] == "strong"
                attack["reached_plateau"] = reached or not strong
        write_results(run, tree)
    text = attacks_markdown(compare(runs, resamples=100), "x")
    (weak,), (strong,) = (cells_of(text, name) for name in ("weak", "strong"))
    assert strong[5].startswith("**0.00400\u2020** (")
    assert "\u2020" not in "".join((*weak, *strong[6:]))
    assert "\u2020 is of an attack whose decoder stopped at its limit of epochs" in text


def test_attacks_without_an_image_have_a_row_of_their_own(labelled_runs):
    compared = compare(labelled_runs, resamples=300)
    assert [row.facts.adversary for row in attack_rows(compared)] == ["strong"]
    (row,) = inference_rows(compared)
    found = row.cells[0]
    assert found.right_class.value == pytest.approx(np.mean(SHARES))
    # Three seeds that differ this much leave the share open, but within 0 and 1.
    assert 0.0 <= found.right_class.low < 0.2
    assert 0.8 < found.right_class.high <= 1.0
    assert found.majority_class == pytest.approx(0.1)
    assert (found.same_person, found.victims) == (None, 600)
    text = attacks_markdown(compared, "x")
    (cells,) = cells_of(text, "weak")
    assert cells[2] == "cloud"
    assert cells[5].startswith("50.0\u202f% (")
    assert cells[5].endswith(", chance 10.0\u202f%")
    assert "same person" not in text
    assert "among 50 (seed 0); chance is 2.0\u202f%" in text
    # One seed: the run's own interval, over its victims.
    (row,) = inference_rows(compare(labelled_runs[:1], resamples=300))
    found = row.cells[0].right_class
    assert (found.low, found.high) == pytest.approx((0.2, 0.4))


@pytest.mark.usefixtures("without_figures")
def test_one_document_holds_the_tables_of_two_comparisons(labelled_runs, tmp_path, capsys):
    document = tmp_path / "ladder.md"
    blocks = [Block(name, label) for label in ("faces", "digits") for name, _ in TABLES]
    document.write_text("\n".join(f"{block.begin}\n{block.end}" for block in blocks))
    for label, run in (("faces", labelled_runs[0]), ("digits", labelled_runs[1])):
        tables = ["--markdown", str(document), "--attacks-markdown", str(document)]
        command = [str(run), *tables, "--label", label, "--resamples", "100"]
        assert main([*command, "--out", str(tmp_path / label)]) == 0
    text = document.read_text()
    for block, seed in zip(blocks, (0, 0, 1, 1), strict=True):
        between = text.partition(block.begin)[2].partition(block.end)[0]
        assert f"digits, seed {seed};" in between
        assert f"--label {block.label}" in between
        assert ("anchor" in between) == ("attacks" in block.command)
    assert str(tmp_path) not in text

    capsys.readouterr()
    for label, said in (("cars", "compare --markdown (cars): begin"), ("a b", "--label a b")):
        refused = [str(labelled_runs[0]), "--markdown", str(document), "--label", label]
        assert main([*refused, "--out", str(tmp_path / "no")]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1
    assert main([str(labelled_runs[0]), "--label", "x", "--out", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()
    assert document.read_text() == text
