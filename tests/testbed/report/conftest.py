import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_fixture import write
from small import write_results


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("results") / "fixture")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the results folder, without a report."""
    return Path(shutil.copytree(pristine, tmp_path / "fixture"))


@pytest.fixture
def edit(folder: Path) -> Callable[[Callable[[dict[str, Any]], None]], None]:
    """Change results.json in place."""
    import json

    def change(how: Callable[[dict[str, Any]], None]) -> None:
        tree = json.loads((folder / "results.json").read_text())
        how(tree)
        write_results(folder, tree)

    return change
