"""Reading: partial folders are shown, damaged ones are rejected in one sentence."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from html_reader import Page
from small import write_rows

from testbed.core.errors import UserError
from testbed.report.__main__ import main
from testbed.report.build import build_report
from testbed.results.columns import TABLES
from testbed.results.reading import read_results

Edit = Callable[[Callable[[dict[str, Any]], None]], None]


def test_columns_keep_null_as_nan(folder: Path) -> None:
    rounds = read_results(folder).rounds.where(arm="undefended")
    assert len(rounds) == 12
    assert np.isnan(rounds["validation_accuracy"]).sum() == 5


def test_interrupted_before_the_second_arm(folder: Path, edit: Edit) -> None:
    def interrupt(tree: dict[str, Any]) -> None:
        tree["status"] = "interrupted"
        del tree["arms"][1]
        tree["self_checks"] = []

    edit(interrupt)
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert "interrupted" in page.ids
    assert "This run was interrupted" in page.text
    assert len(page.row("table-headline", "test accuracy")) == 1


def test_warnings_of_the_run_are_on_the_page(folder: Path, edit: Edit) -> None:
    edit(lambda tree: tree.update(warnings=["2 of 60 rows have no class <-1>"]))
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert "2 of 60 rows have no class <-1>" in page.text


def test_interrupted_with_nothing_finished(folder: Path, edit: Edit) -> None:
    edit(lambda tree: tree.update(status="interrupted", arms=[], self_checks=[]))
    for table in TABLES:
        write_rows(folder, table, [])
    (folder / "host.json").unlink()
    (folder / "reconstructions" / "samples.npz").unlink()
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    for sentence in (
        "No arm was evaluated.",
        "No reconstruction was stored.",
        "No attack was mounted.",
        "No round was finished.",
        "No request was served.",
        "host.json was not written.",
    ):
        assert sentence in page.text
    assert "img" not in page.tags


def test_complete_without_attacks(folder: Path, edit: Edit) -> None:
    def disarm(tree: dict[str, Any]) -> None:
        for arm in tree["arms"]:
            arm["attacks"] = []

    edit(disarm)
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert "No attack was mounted." in page.text
    assert "plot-privacy_utility" not in page.ids
    assert "plot-latency" in page.ids


def test_null_scores_and_latencies(folder: Path, edit: Edit) -> None:
    def forget(tree: dict[str, Any]) -> None:
        nothing = {"value": None, "low": None, "high": None, "n": 0}
        arm = tree["arms"][1]
        arm["accuracy"]["test"] = nothing
        arm["serving"]["latency_ms"] = {"median": None, "p95": None, "p99": None}
        for entry in arm["by_device_class"]:
            entry["latency_ms"] = {"median": None, "p95": None, "p99": None}
            entry["accuracy"] = None
        for attack in arm["attacks"]:
            attack["scores"] = dict.fromkeys(("mse", "psnr_db", "ssim"), nothing)
            attack["by_device_class"] = []
            attack["training_curve"] = [{"epoch": 1, "training_mse": None, "validation_mse": None}]

    edit(forget)
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert page.row("table-headline", "latency, median")[1] == ("–", None)  # noqa: RUF001


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _without_column(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns(["latency_ms"]), path)


def _as_text(path: Path) -> None:
    table = pq.read_table(path)
    words = pa.array(["x"] * len(table))
    at = table.schema.get_field_index("latency_ms")
    pq.write_table(table.set_column(at, "latency_ms", words), path)


def _pickled(path: Path) -> None:
    arrays = {"original/undefended/eavesdropper": np.array([{}], dtype=object)}
    np.savez(path, **arrays)


def _floats(path: Path) -> None:
    arrays = {"original/undefended/eavesdropper": np.zeros((2, 1, 8, 8))}
    np.savez(path, **arrays)


def _without_brace(path: Path) -> None:
    """Damage the header of an array so that not even Python's tokenizer can read it."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 1, 8, 8), np.uint8))
    with zipfile.ZipFile(path, "w") as archive:
        content = buffer.getvalue().replace(b"{", b"\0", 1)
        archive.writestr("original/undefended/eavesdropper.npy", content)


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("results.json", Path.unlink, "missing"),
    ("results.json", _truncate, "not valid JSON"),
    ("results.json", lambda p: p.write_text("[]"), "schema_version"),
    ("results.json", lambda p: p.write_text('{"schema_version": 1}'), "schema_version is 1"),
    ("results.json", lambda p: p.write_text('{"schema_version": 3}'), "status"),
    ("results.json", lambda p: p.write_text('{"schema_version": NaN}'), "NaN"),
    ("results.json", lambda p: p.write_text("[" * 100_000), "not valid JSON"),
    ("results.json", lambda p: p.write_bytes(b"\xff\xfe"), "not valid JSON"),
    ("host.json", lambda p: p.write_text(p.read_text().replace("[", '3, "x": [', 1)), "phases"),
    ("rounds.parquet", Path.unlink, "missing"),
    ("rounds.parquet", _truncate, "not a readable parquet"),
    ("requests.parquet", lambda p: p.write_text("x"), "not a readable parquet"),
    ("requests.parquet", _without_column, "'latency_ms' is missing"),
    ("requests.parquet", _as_text, "not a readable parquet"),
    ("reconstructions/samples.npz", _truncate, "not a readable archive"),
    ("reconstructions/samples.npz", _pickled, "not a readable archive"),
    ("reconstructions/samples.npz", _without_brace, "not a readable archive"),
    ("reconstructions/samples.npz", _floats, "expected uint8 images"),
]


@pytest.mark.parametrize(("name", "damage", "words"), BROKEN)
def test_damage_is_one_sentence_naming_the_file(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path], object],
    words: str,
) -> None:
    damage(folder / name)
    with pytest.raises(UserError) as caught:
        build_report(folder)
    sentence = str(caught.value)
    assert str(folder / name) in sentence
    assert words in sentence
    assert "\n" not in sentence
    assert not (folder / "report.html").exists()
    assert main([str(folder)]) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_names_outside_the_folder_are_rejected(folder: Path, edit: Edit) -> None:
    def climb(tree: dict[str, Any]) -> None:
        tree["arms"][0]["attacks"][0]["attack"] = "../../climb"

    edit(climb)
    with pytest.raises(UserError, match=r"arms\.0\.attacks\.0\.attack"):
        build_report(folder)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such results folder"):
        read_results(tmp_path / "nowhere")


@pytest.mark.usefixtures("without_figures")
def test_unwritable_report_leaves_no_half_file(folder: Path) -> None:
    (folder / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html: cannot be written"):
        build_report(folder)
    assert not list(folder.glob(".report.html*"))


def test_unknown_keys_are_ignored(folder: Path) -> None:
    tree = json.loads((folder / "results.json").read_text())
    tree["later"] = tree["arms"][0]["later"] = {"x": 1}
    (folder / "results.json").write_text(json.dumps(tree))
    assert len(read_results(folder).arms) == 2
