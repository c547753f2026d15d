"""Adversaries' own datasets: which images are used, what is refused, what is warned about."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from testbed.cli.dry_run import print_dry_run
from testbed.core.errors import UserError
from testbed.engine.setting.run_context import read_run_inputs
from testbed.scenario.loading import validate_scenario

KEY = "adversaries.eaves.knowledge.auxiliary_data"


def write(folder, sides, labels, seed):
    rng = np.random.default_rng(seed)
    contents = []
    for side in sides:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    folder.mkdir()
    pq.write_table(pa.table({"image": contents, "label": labels}), folder / "train.parquet")


@pytest.fixture
def scenario_of(tmp_path, tiny):
    """Return a scenario whose adversary has a dataset of its own, as the arguments say."""

    def make(sides, labels, seed=1):
        turns = [row % 3 for row in range(300)]
        write(tmp_path / "run", [16] * 300, turns, 0)
        write(tmp_path / "own", sides, labels, seed)
        tiny["data"] = {"name": "parquet_folder", "path": str(tmp_path / "run")}
        tiny["adversaries"] = tiny["adversaries"][:1]
        own = {"name": "parquet_folder", "path": str(tmp_path / "own"), "max_images": 300}
        tiny["adversaries"][0]["knowledge"] = {"auxiliary_data": own}
        return validate_scenario(tiny, "test")

    return make


def test_warnings_of_an_adversary_s_data_are_shown_with_its_key(scenario_of):
    scenario = scenario_of([16] * 60, [None if row < 5 else row % 3 for row in range(60)])
    warning = f"{KEY}: 5 of 60 rows have no class (-1 or empty) and are left out"
    assert read_run_inputs(scenario).warnings == (warning,)
    console = Console(file=io.StringIO(), width=200)
    print_dry_run(scenario, console)
    assert f"warning: {warning}" in console.file.getvalue()


def test_images_of_any_sizes_are_resized_to_those_of_the_run(scenario_of):
    inputs = read_run_inputs(scenario_of([20 + row for row in range(60)], [0, 1] * 30))
    own = inputs.foreign["eaves"]
    assert own.auxiliary.images.shape == (48, 1, 16, 16)
    assert own.validation.images.shape == (12, 1, 16, 16)


def test_images_of_the_run_are_left_out_with_a_warning(scenario_of):
    scenario = scenario_of([16] * 320, [row % 3 for row in range(320)], seed=0)
    warnings = read_run_inputs(scenario).warnings
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{KEY}: 2")
    assert warnings[0].endswith(" of 300 images are left out: they are in the run's data")


def test_a_dataset_without_other_images_is_refused(scenario_of):
    scenario = scenario_of([16] * 300, [row % 3 for row in range(300)], seed=0)
    with pytest.raises(UserError, match=rf"^{KEY}: 0 of 300 images of folder own are not in the"):
        read_run_inputs(scenario)


def test_errors_name_the_adversary_s_key(scenario_of):
    with pytest.raises(UserError, match=rf"^{KEY}: data\.name=parquet_folder: fewer than two cla"):
        read_run_inputs(scenario_of([16] * 60, [1] * 60))
