"""A whole run does not depend on where its files hold which rows."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from whole_runs import everything, run

from testbed.data.federated import load_federated_data
from testbed.engine.setting.auxiliary_data import foreign_images
from testbed.scenario.loading import validate_scenario

COUNT = 240


@pytest.fixture(scope="module")
def rows():
    """Return digits sorted by class, with copies of the same class and of another one."""
    found = load_digits(n_class=4)
    order = np.argsort(found.target[:COUNT], kind="stable")
    cells = []
    for image in found.images[order]:
        file = io.BytesIO()
        Image.fromarray(np.kron(image * 15.9, np.ones((2, 2))).astype(np.uint8)).save(file, "PNG")
        cells.append({"bytes": file.getvalue(), "path": None})
    cells[5:9] = [cells[4]] * 4
    cells[-3:] = [cells[4]] * 3
    return cells, found.target[order].tolist()


@pytest.fixture
def write(rows):
    """Return a function that writes files with these rows."""
    cells, labels = rows

    def made(folder, files):
        folder.mkdir(parents=True)
        for file, members in files.items():
            columns = {
                "image": [cells[row] for row in members],
                "label": [labels[row] for row in members],
            }
            pq.write_table(pa.table(columns), folder / file)

    return made


@pytest.fixture
def run_on(write, tiny, tmp_path, monkeypatch):
    """Return a function that runs the tiny scenario on files with these rows."""
    tiny["data"] = {"name": "parquet_folder", "path": "mine"}
    tiny["training"]["rounds"] = 1
    tiny["evaluation"]["mutual_information"] = True
    limited = {"weights": False, "queries": 40}
    tiny["adversaries"] = [
        {"name": "limited", "position": {"tap": "cloud"}, "knowledge": limited, "attack": "ridge"},
        {
            "name": "few",
            "position": {"tap": "links", "share_of_links": 0.5},
            "attack": {"name": "kernel_ridge", "max_samples": 30},
        },
    ]

    def made(name, files):
        write(tmp_path / name / "mine", files)
        monkeypatch.chdir(tmp_path / name)  # the results name the folder
        return run(tiny, tmp_path / name / "out")

    return made


def test_results_do_not_depend_on_the_order_of_rows_nor_on_their_file(run_on):
    shuffled = np.random.default_rng(1).permutation(COUNT)
    one, other = (
        {f"train-{number:05d}-of-00003.parquet": part for number, part in enumerate(parts)}
        for parts in (np.split(np.arange(COUNT), [80, 160]), np.split(shuffled, [17, 130]))
    )
    assert everything(run_on("shuffled", other)) == everything(run_on("sorted", one))


def test_an_adversary_s_own_images_do_not_depend_on_the_order_of_their_rows(write, tiny, tmp_path):
    def images(name, order):
        write(tmp_path / name, {"train.parquet": order})
        mine = {"name": "parquet_folder", "path": str(tmp_path / name), "max_images": 100}
        tiny["adversaries"] = [
            {
                "name": "foreign",
                "position": {"tap": "cloud"},
                "knowledge": {"auxiliary_data": mine},
                "attack": "ridge",
            }
        ]
        scenario = validate_scenario(tiny, "test")
        data = load_federated_data(scenario.data, scenario.fleet.size, scenario.seed)
        found = foreign_images(scenario, data)["foreign"]
        return [found.auxiliary.images, found.validation.images]

    shuffled = np.random.default_rng(1).permutation(COUNT)
    np.testing.assert_equal(images("shuffled", shuffled), images("sorted", range(COUNT)))
