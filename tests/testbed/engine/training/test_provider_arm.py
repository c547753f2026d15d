"""Provider-trained arms: end to end, from the kept models, interrupted, and fine-tuned."""

import copy
import io
import json
import logging
import shutil

import pyarrow.parquet as pq
import pytest
import whole_runs
from small import TINY
from whole_runs import StopAt, everything

from server import machine
from testbed.core.errors import UserError
from testbed.core.progress import Display, Progress
from testbed.engine.setting.models import arm_models
from testbed.engine.setting.run_context import RunContext, read_run_inputs, start_backend
from testbed.engine.training.fleet import evaluate, prepare
from testbed.engine.training.model_cache import FOLDER_VARIABLE
from testbed.engine.training.provider import provider_images, train_at_provider
from testbed.results.writing import check_folder, open_folder, recorded_before
from testbed.scenario.loading import validate_scenario

FIXTURE_EPOCHS = 4


def provider_tree():
    """Return the tree of a small provider scenario with one arm and one adversary."""
    tree = copy.deepcopy(TINY)
    tree["training"] |= {
        "protocol": "provider",
        "provider": {"epochs": FIXTURE_EPOCHS, "batch_size": 16, "threads": 1},
    }
    tree["arms"] = tree["arms"][1:]
    tree["adversaries"] = tree["adversaries"][1:]
    return tree


@pytest.fixture
def provider():
    """Return that tree, to change freely."""
    return provider_tree()


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    """Use a models folder of this test's own."""
    folder = tmp_path / "models"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Return folder, models and results of that scenario, run once."""
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder / "models"))
        results = run(provider_tree(), folder / "run")
    return folder, results


def run(tree, folder, display=None, **options):
    """Run a scenario and return its results."""
    return everything(whole_runs.run(tree, folder, display, **options))


def arm_of(results):
    return json.loads(results["results.json"])["arms"][0]


def rows_of(results, table):
    return pq.read_table(io.BytesIO(results[f"{table}.parquet"])).to_pylist()


def origin(folder):
    return json.loads((folder / "host.json").read_text())["models"]


def test_a_provider_trains_deploys_and_is_attacked(plain):
    folder, results = plain
    arm = arm_of(results)
    images = json.loads(results["results.json"])["data"]["images"]
    assert arm["training"]["protocol"] == "provider"
    assert arm["training"]["rounds"] == 0
    assert arm["training"]["uplink_bytes"] == 0
    assert arm["training"]["provider"]["images"] == images["training"]
    assert arm["accuracy"]["test"]["value"] > 0.5
    assert {attack["attack"] for attack in arm["attacks"]} >= {"ridge", "mean_image"}
    rows = rows_of(results, "rounds")
    assert [row["round"] for row in rows] == list(range(1, FIXTURE_EPOCHS + 1))
    assert {row["protocol"] for row in rows} == {"provider"}
    assert {row["virtual_s"] for row in rows} == {0.0}
    deployed = arm["training"]["provider"]["deployed_epoch"]
    accuracies = [row["validation_accuracy"] for row in rows]
    assert accuracies[deployed - 1] == max(accuracies) == arm["accuracy"]["best_validation"]
    assert arm["accuracy"]["final_validation"] == max(accuracies)
    # The front-ends travelled over Flower, and the ledger was charged for them.
    serving = [row for row in rows_of(results, "devices") if row["serving_feasible"]]
    weights = arm["edge"]["weight_bytes"]
    assert serving
    assert all(row["serve_downlink_bytes"] > weights for row in serving)
    assert (folder / "run" / "report.html").exists()


def test_what_this_machine_chose_is_recorded_and_a_resumed_run_takes_it(
    provider, tmp_path, monkeypatch
):
    provider["training"]["provider"] |= {"threads": None, "precision": "auto"}
    scenario = validate_scenario(provider, "made")
    monkeypatch.setattr(machine, "available_cores", lambda: 3)
    monkeypatch.setattr(machine, "has_bf16", lambda device: True)
    here = read_run_inputs(scenario).scenario
    chosen = here.training.provider
    assert (chosen.threads, chosen.precision) == (3, "bf16")
    open_folder(tmp_path, here, resume=False)
    # On a machine of another kind the run goes on as it began; a new one makes its own choice.
    monkeypatch.setattr(machine, "available_cores", lambda: 5)
    monkeypatch.setattr(machine, "has_bf16", lambda device: False)
    check_folder(tmp_path, scenario, force=False, resume=True)
    resumed = read_run_inputs(recorded_before(tmp_path, scenario))
    assert resumed.scenario == here
    assert any("emulates it" in note for note in resumed.machine_notes)
    anew = read_run_inputs(scenario)
    assert (anew.scenario.training.provider.threads, anew.machine_notes) == (5, ())
    assert anew.scenario.training.provider.precision == "fp32"
    # Where the fleet trains, nothing is chosen.
    fleet = read_run_inputs(validate_scenario(TINY, "made"))
    assert fleet.scenario.training.provider.threads is None


def test_kept_models_give_the_same_bytes_and_damaged_ones_are_trained_again(
    plain, provider, tmp_path, models, caplog
):
    folder, first = plain
    shutil.copytree(folder / "models", models)
    kept = {path.name: path.read_bytes() for path in models.iterdir()}
    assert run(provider, tmp_path / "again") == first
    assert [item["reused"] for item in origin(folder / "run")] == [False]
    assert [item["reused"] for item in origin(tmp_path / "again")] == [True]
    assert {path.name: path.read_bytes() for path in models.iterdir()} == kept
    weights = next(models.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert run(provider, tmp_path / "damaged") == first
    assert "the model is trained again" in caplog.text
    assert [item["reused"] for item in origin(tmp_path / "damaged")] == [False]
    assert {path.name: path.read_bytes() for path in models.iterdir()} == kept


def test_other_adversaries_fleets_and_names_share_the_model(plain, provider, tmp_path, models):
    shutil.copytree(plain[0] / "models", models)
    provider["arms"][0]["name"] = "renamed"
    provider["adversaries"] = []
    provider["fleet"]["size"] = 9
    provider["name"] = "other"
    run(provider, tmp_path / "other")
    assert [item["reused"] for item in origin(tmp_path / "other")] == [True]
    assert len(list(models.iterdir())) == 2


def test_without_reuse_an_interrupted_training_goes_on_with_the_same_bits(
    plain, provider, tmp_path, models
):
    provider["training"]["reuse_models"] = False
    with pytest.raises(KeyboardInterrupt):
        run(provider, tmp_path / "cut", StopAt("train sift", 2))
    checkpoints = tmp_path / "cut" / "checkpoints" / "sift" / "provider"
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "round-000001.safetensors",
        "round-000002.safetensors",
    ]
    assert run(provider, tmp_path / "cut", resume=True) == plain[1]
    assert not models.exists()
    # Whether models are kept changes nothing, so it may change between the two.
    provider["training"]["reuse_models"] = True
    assert run(provider, tmp_path / "cut", resume=True) == plain[1]


def test_a_checkpoint_of_another_training_is_not_continued(provider, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run(provider, tmp_path / "cut", StopAt("train sift", 2))
    monkeypatch.setattr(
        "testbed.engine.training.model_key.describe_code", lambda models: {"files": "other"}
    )
    notes = []

    class Notes(Display):
        def advance(self, steps, note):
            notes.append(note)

    run(provider, tmp_path / "cut", Notes(), resume=True)
    assert any(note.startswith("epoch 1,") for note in notes)


def test_the_fleet_fine_tunes_the_provider_s_model(plain, provider, tmp_path, models):
    shutil.copytree(plain[0] / "models", models)
    provider["training"]["fine_tune_rounds"] = 2
    tuned = run(provider, tmp_path / "tuned")
    arm = arm_of(tuned)
    assert [item["reused"] for item in origin(tmp_path / "tuned")] == [True]
    assert arm["training"]["rounds"] == 2
    assert arm["training"]["provider"] == arm_of(plain[1])["training"]["provider"]
    assert arm["training"]["uplink_bytes"] > 0
    rows = rows_of(tuned, "rounds")
    assert rows[:FIXTURE_EPOCHS] == rows_of(plain[1], "rounds")
    assert [row["round"] for row in rows] == list(range(1, FIXTURE_EPOCHS + 3))
    first, second = rows[FIXTURE_EPOCHS:]
    assert first["protocol"] == second["protocol"] == "split_federated"
    assert first["participants"] > 0
    # It starts from the provider's model: a round from scratch would be near chance.
    assert first["validation_accuracy"] > 0.3
    assert arm["accuracy"]["final_validation"] == second["validation_accuracy"]
    with pytest.raises(KeyboardInterrupt):
        run(provider, tmp_path / "cut", StopAt("fine-tune sift", 1))
    assert run(provider, tmp_path / "cut", resume=True) == tuned


def test_the_installed_model_has_the_accuracy_that_the_provider_recorded(provider, tmp_path):
    inputs = read_run_inputs(validate_scenario(provider, "test"))
    models = arm_models(inputs, inputs.scenario.arms[0])
    run_context = RunContext(inputs, start_backend(inputs, 1), tmp_path / "run", Progress())
    arm = prepare(run_context, models, grid=None)
    assert train_at_provider(run_context, arm).arm == "sift"
    deployed = arm.rounds[arm.provider["deployed_epoch"] - 1]
    loss, accuracy = evaluate(run_context, arm)
    assert loss == pytest.approx(deployed["validation_loss"], rel=1e-4)
    assert accuracy == pytest.approx(deployed["validation_accuracy"])


def test_a_single_training_image_is_one_sentence(provider):
    provider["seed"] = 1
    provider["fleet"]["size"] = 1
    provider["data"]["splits"] = {
        "training": 0.006,
        "validation": 0.274,
        "auxiliary": 0.38,
        "auxiliary_validation": 0.14,
        "victims": 0.2,
    }
    with pytest.raises(UserError, match=r"data\.splits\.training: a provider needs 2 images"):
        read_run_inputs(validate_scenario(provider, "test"))


def test_tiers_are_trained_together_and_deployed_apart(provider, tmp_path):
    provider["fleet"]["assignments"] = [
        {"name": "small", "devices": ["mcu"], "front_end": {"cut": 1}, "precision": "int8"}
    ]
    results = run(provider, tmp_path / "run")
    arm = arm_of(results)
    tiers = {tier["tier"]: tier for tier in arm["tiers"]}
    assert set(tiers) == {"own", "small"}
    assert tiers["own"]["edge"]["feature_shape"] != tiers["small"]["edge"]["feature_shape"]
    assert arm["accuracy"]["test"]["value"] > 0.5
    assert all(tier["accuracy"]["value"] > 0.3 for tier in tiers.values())
    assert run(provider, tmp_path / "again") == results
    assert [item["reused"] for item in origin(tmp_path / "again")] == [True]


def test_the_provider_s_images_are_its_share_of_the_training_part(provider):
    inputs = read_run_inputs(validate_scenario(provider, "test"))
    parts, pool = inputs.data.parts, inputs.data.pool
    everything = provider_images(inputs)
    assert len(everything.labels) == len(parts.training)
    assert (everything.images == pool.images[parts.training]).all()
    assert (everything.validation_labels == pool.labels[parts.validation]).all()
    provider["training"]["provider"]["share_of_training"] = 0.25
    part = provider_images(read_run_inputs(validate_scenario(provider, "test")))
    assert len(part.labels) == round(0.25 * len(parts.training))
    held = {image.tobytes() for image in everything.images}
    assert all(image.tobytes() in held for image in part.images)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": "split_federated"}, "fine_tune_rounds needs 'protocol: provider'"),
        ({"protocol": "central"}, "training.protocol"),
        ({"provider": {"epochs": 0}}, "training.provider.epochs"),
        ({"provider": {"optimizer": {}}}, "did you mean 'optimiser'"),
        (
            {"provider": {"selection": "last", "early_stopping_epochs": 2}},
            "early_stopping_epochs needs 'selection: accuracy' or 'loss'",
        ),
        ({"cohort_size": 9}, "training.cohort_size (9) exceeds fleet.size (8)"),
    ],
)
def test_wrong_settings_are_one_sentence(provider, changes, words):
    provider["training"] |= {"fine_tune_rounds": 1} | changes
    with pytest.raises(UserError) as caught:
        validate_scenario(provider, "test")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cohort_is_asked_for_only_where_a_fleet_trains(provider):
    provider["training"]["cohort_size"] = 9
    assert validate_scenario(provider, "test").training.fleet_rounds == 0


def test_a_missing_gpu_is_reported_before_anything_is_written(provider, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    provider["engine"]["device"] = "cuda"
    with pytest.raises(UserError, match=r"engine\.device: 'cuda' needs a GPU"):
        run(provider, tmp_path / "run")
    assert not (tmp_path / "run").exists()
