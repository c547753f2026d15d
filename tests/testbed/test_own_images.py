"""A run on the images of a user: what its files lack is said wherever its figures stand."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from testbed.run import main


@pytest.fixture
def images(tiny, tmp_path):
    """Return the tiny scenario on a parquet file of digits, and a function that writes the file."""
    pixels = load_digits()
    cells = []
    for image in pixels.images[:200]:
        path = tmp_path / "digit.png"
        Image.fromarray(np.kron(image * 15.9, np.ones((2, 2))).astype(np.uint8)).save(path)
        cells.append({"bytes": path.read_bytes(), "path": None})
    tiny["data"] = {"name": "parquet_folder", "path": str(tmp_path / "mine")}
    tiny["arms"], tiny["adversaries"] = tiny["arms"][:1], tiny["adversaries"][:1]

    def write(name="train.parquet", rows=slice(None), **columns):
        (tmp_path / "mine").mkdir(exist_ok=True)
        columns = {"label": pixels.target[:200].tolist()} | columns
        table = {"image": cells, **columns}
        pq.write_table(
            pa.table({column: values[rows] for column, values in table.items()}),
            tmp_path / "mine" / name,
        )

    write()
    return tiny, write


@pytest.mark.usefixtures("without_figures")
def test_a_run_warns_of_rows_without_a_class(images, write_scenario, tmp_path, capsys):
    tree, write = images
    write(label=[-1, *load_digits().target[1:200].tolist()])
    warning = "1 row has no class (-1 or empty) and is left out"
    scenario, out = write_scenario(tree), tmp_path / "out"
    assert main([str(scenario), "--dry-run"]) == 0
    assert f"warning: {warning}" in capsys.readouterr().out.replace("\n", " ")
    assert main([str(scenario), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert f"warning: {warning}" in printed.out.replace("\n", " ")
    assert f"warning: {warning}" in printed.err
    assert "data: not split by person" in printed.err
    results = json.loads((out / "results.json").read_text())
    assert results["warnings"] == [warning]
    page = (out / "report.html").read_text()
    assert warning in page
    assert "not split by person" in page


@pytest.mark.usefixtures("without_figures")
def test_the_official_test_set_is_in_the_report_and_the_results(images, write_scenario, tmp_path):
    tree, write = images
    write("digits_test.parquet", slice(0, 60))
    write("digits_train.parquet", slice(60, 200))
    write("digits_val.parquet", slice(60, 200))
    (tmp_path / "mine" / "train.parquet").unlink()
    out = tmp_path / "out"
    assert main([str(write_scenario(tree)), "--out", str(out)]) == 0
    data = json.loads((out / "results.json").read_text())["data"]
    notes = [
        "training files: digits_train.parquet",
        "official test set: digits_test.parquet",
        "left out: digits_val.parquet (validation)",
    ]
    assert data["notes"][:3] == notes
    assert sum(data["images"].values()) <= 200
    assert data["images"]["victims"] <= 60
    page = (out / "report.html").read_text()
    assert all(note in page for note in notes)


def test_a_dry_run_says_how_the_images_are_read_and_split(images, write_scenario, capsys):
    tree, write = images
    write(subject=[f"{row % 50}" for row in range(200)])
    assert main([str(write_scenario(tree)), "--dry-run"]) == 0
    printed = capsys.readouterr().out.replace("\n", " ")
    assert "data: training files: train.parquet" in printed
    assert "data: no official test set: victims are drawn from the training files" in printed
    assert "data: images are in column 'image', classes in column 'label'" in printed
    assert "data: not split by person" in printed
    assert "column 'subject' may name persons" in printed
    by_person = ["--set", "data.options.person_column=subject"]
    assert main([str(write_scenario(tree)), "--dry-run", *by_person]) == 0
    printed = capsys.readouterr().out.replace("\n", " ")
    assert "data: split by person (column 'subject', 50 persons)" in printed
    assert "may name persons" not in printed
    off = ["--set", "data.options.person_column=false"]
    assert main([str(write_scenario(tree)), "--dry-run", *off]) == 0
    assert "may name persons" not in capsys.readouterr().out
    wrong = ["--set", "data.options.person_column=true"]
    assert main([str(write_scenario(tree)), "--dry-run", *wrong]) == 2
    assert "person_column" in capsys.readouterr().err
