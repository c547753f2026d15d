import shutil
from pathlib import Path

import pytest
from runs_fixture import write_run

from testbed.compare.comparison import Comparison, compare


@pytest.fixture(scope="session")
def pristine_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / f"seed{seed}", seed) for seed in range(3)]


@pytest.fixture
def runs(pristine_runs: list[Path], tmp_path: Path) -> list[Path]:
    """Copies of three seeds, which a test can change."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in pristine_runs]


@pytest.fixture(scope="session")
def compared(pristine_runs: list[Path]) -> Comparison:
    return compare(pristine_runs, resamples=300)
