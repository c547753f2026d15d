"""``python -m testbed.models`` lists and removes models."""

import pytest
import torch

from server.schedule import EpochRecord
from testbed.engine.training.model_cache import FOLDER_VARIABLE, TrainedModel, save_model
from testbed.engine.training.model_key import FORMAT
from testbed.models import main


def facts(seed):
    return {
        "format": FORMAT,
        "tiers": [{"front_end": {"name": "cnn"}, "defence": {"name": "none"}}],
        "data": {"name": "digits", "training_images": 1234},
        "seed": seed,
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Save two models, and set the environment variable of their folder."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setenv("COLUMNS", "200")
    history = [EpochRecord(1, 1.0, 0.0, 0.5, 1.0, 0.25), EpochRecord(2, 1.0, 0.0, 0.5, 1.0, 0.875)]
    for seed in (41, 42):
        model = TrainedModel({"tier0.w": torch.rand(9)}, history, 8, 2)
        save_model(tmp_path / "models", facts(seed), model)
    return tmp_path / "models"


def test_it_lists_models_and_marks_damaged_ones(folder, capsys):
    damaged = sorted(folder.glob("*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-4])
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert printed.count("cnn-none-digits-") == 2
    assert printed.count("sound") == 1
    assert printed.count("not those that were saved") == 1
    assert "1,234" in printed
    assert "87.5%" in printed


def test_models_of_another_version_are_marked(folder, capsys):
    model = TrainedModel(
        {"tier0.w": torch.rand(9)}, [EpochRecord(1, 1.0, 0.0, 0.5, 1.0, 0.5)], 8, 1
    )
    save_model(folder, facts(43) | {"format": FORMAT - 1}, model)
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert printed.count("of another version of the testbed") == 1
    assert printed.count("sound") == 2


def test_clean_removes_what_no_run_could_use(folder, capsys):
    whole, damaged = sorted(folder.glob("*.json"))
    damaged.write_text("{}")
    (folder / "cnn-none-digits-0.77.part").write_bytes(b"half")
    (folder / "orphan.safetensors").write_bytes(b"weights")
    (folder / "notes.txt").write_text("mine")
    assert main(["--clean"]) == 0
    assert "removed 4 files" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [whole.name, whole.with_suffix(".safetensors").name, "notes.txt"]
    )


def test_remove_takes_all_models_and_nothing_else(folder, capsys):
    (folder / "notes.txt").write_text("mine")
    assert main(["--remove", "--folder", str(folder)]) == 0
    assert "removed 4 files" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_no_folder_is_one_sentence(tmp_path, capsys):
    assert main(["--folder", str(tmp_path / "none")]) == 2
    assert "no such folder of models" in capsys.readouterr().err
