"""Trains an arm at the provider, or loads the model from ``models/``, ready to deploy.

The provider's images are the pooled training part, or a share of it. They are disjoint from the
victims and from the attackers' images. Devices that fine-tune later hold images of the same part.
"""

import copy
import logging
from pathlib import Path

import numpy as np

from server.edge_interface import ProviderTier
from server.provider import ProviderImages, ProviderTraining
from server.schedule import EpochRecord, best_epoch, is_over
from testbed.core.compute import compute_device
from testbed.core.progress import Progress
from testbed.core.seeds import generator
from testbed.core.state_dicts import below
from testbed.engine.setting.run_context import RunContext, RunInputs
from testbed.engine.training import checkpoint
from testbed.engine.training.code_files import NotHashableError
from testbed.engine.training.fleet import TOTALS, TrainedArm
from testbed.engine.training.model_cache import TrainedModel, load_model, models_folder, save_model
from testbed.engine.training.model_key import Facts, describe_model, key_of
from testbed.results.columns import Record
from testbed.results.host_facts import ProviderModel

_LOG = logging.getLogger(__name__)


def train_at_provider(run_context: RunContext, arm: TrainedArm) -> ProviderModel:
    """Give the arm the provider's model; return where it came from."""
    scenario = run_context.inputs.scenario
    images = provider_images(run_context.inputs)
    training = _training(run_context.inputs, arm, images)
    reuse, folder = scenario.training.reuse_models, models_folder()
    facts = _facts(run_context, arm, images, reuse)
    model = load_model(folder, facts, training.weights()) if reuse and facts else None
    key = key_of(facts) if facts else None
    reused = model is not None
    if reused:
        with run_context.progress.phase(f"train {arm.models.arm}", 1):
            run_context.progress.advance(1, f"kept model {key}")
    if model is None:
        model = _train(run_context, arm, training, key)
        if reuse and facts:
            save_model(folder, facts, model)
    _install(arm, model, len(images.labels))
    return ProviderModel(arm=arm.models.arm, model=key, reused=reused)


def _facts(
    run_context: RunContext, arm: TrainedArm, images: ProviderImages, reuse: bool
) -> Facts | None:
    """Return what decides the weights, or say once why it cannot be told."""
    scenario = run_context.inputs.scenario
    try:
        return describe_model(scenario, arm.models, images, compute_device())
    except NotHashableError as error:
        reason = f"arm {arm.models.arm}: its trained model is neither kept nor reused: {error}"
        _LOG.warning("%s", reason)
        if reuse:
            run_context.progress.say(reason)
        return None


def provider_images(inputs: RunInputs) -> ProviderImages:
    """Return the provider's images: its share of the training part, and the validation part."""
    data, scenario = inputs.data, inputs.scenario
    rows = data.parts.training
    count = max(2, round(scenario.training.provider.share_of_training * len(rows)))
    if count < len(rows):
        order = generator(scenario.seed, "provider images").permutation(len(rows))
        rows = rows[np.sort(order[:count])]
    validation = data.parts.validation
    return ProviderImages(
        data.pool.images[rows],
        data.pool.labels[rows],
        data.pool.images[validation],
        data.pool.labels[validation],
    )


def _training(inputs: RunInputs, arm: TrainedArm, images: ProviderImages) -> ProviderTraining:
    scenario = inputs.scenario
    section, models = scenario.training.provider, arm.models
    return ProviderTraining(
        section,
        scenario.seed,
        [
            ProviderTier(models.tiers[tier].device_spec.build(), tier, models.share(tier))
            for tier in models.used()
        ],
        copy.deepcopy(models.cloud),
        images,
        compute_device(),
    )


def _train(
    run_context: RunContext, arm: TrainedArm, training: ProviderTraining, key: str | None
) -> TrainedModel:
    """Train to the end, from the newest checkpoint if the training was interrupted."""
    name = arm.models.arm
    folder = run_context.folder / "checkpoints" / name / "provider"
    every = run_context.inputs.scenario.training.checkpoint_every_rounds
    if key is not None:
        _restore(training, folder, key, run_context.progress)

    def on_epoch(record: EpochRecord) -> None:
        if record.epoch % every == 0 or is_over(training.section, training.history):
            tensors, state = training.state()
            checkpoint.save(folder, record.epoch, tensors, {**state, "model": key})
        note = f"epoch {record.epoch}, validation accuracy {record.validation_accuracy:.1%}"
        run_context.progress.advance(1, note)

    with run_context.progress.phase(f"train {name}", training.section.epochs):
        run_context.progress.advance(len(training.history))
        training.run(on_epoch, lambda note: run_context.progress.advance(0, note))
    return TrainedModel(
        training.selected(),
        training.history,
        training.steps,
        best_epoch(training.section, training.history),
    )


def _restore(training: ProviderTraining, folder: Path, key: str, progress: Progress) -> None:
    found = checkpoint.load_latest(folder, progress.say)
    if found is not None and found[1].get("model") == key:
        training.load_state(*found)


def _install(arm: TrainedArm, model: TrainedModel, images: int) -> None:
    """Copy the trained weights to where deployment and fine-tuning read them."""
    weights = {name: value.clone() for name, value in model.weights.items()}
    for number, tier in enumerate(arm.models.used()):
        edge, kept = below(f"tier{number}.", weights), arm.server.tiers[tier]
        kept.parameters = {name: edge[name] for name in kept.parameters}
        kept.statistics = {name: edge[name] for name in kept.statistics}
        # Fine-tuning averages its batch-norm statistics into these.
        kept.aggregated_rounds = model.steps // arm.server.training.local_steps
    arm.cloud.model.load_state_dict(below("cloud.", weights))
    arm.cloud.steps = model.steps
    arm.rounds = [_row(arm.models.arm, record) for record in model.history]
    arm.provider = {
        "epochs": len(model.history),
        "deployed_epoch": model.best_epoch,
        "images": images,
    }


def _row(arm: str, record: EpochRecord) -> Record:
    """Return an epoch's row of rounds.parquet: without devices and virtual time."""
    row: Record = {
        "arm": arm,
        "protocol": "provider",
        "round": record.epoch,
        "virtual_s": 0.0,
        "training_loss": record.training_loss,
        "penalty": record.penalty,
        "training_accuracy": record.training_accuracy,
        "validation_loss": record.validation_loss,
        "validation_accuracy": record.validation_accuracy,
        "cohort": 0,
        "participants": 0,
        "unused": 0,
    }
    return row | {key: 0 for name in TOTALS for key in (name, f"total_{name}")}
