"""Central training: the loss by hand, resumption, selection, schedules, tiers and precision."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from small import make_batch, make_spec

from clients.defences.base import Batch, Defence
from clients.device_spec import initialise
from server import machine
from server.edge_interface import ProviderTier
from server.entry_layers import TieredCloudModel
from server.machine import CPU_BF16, emulated, settled
from server.provider import ProviderImages, ProviderTraining
from server.schedule import EpochRecord, best_epoch, is_over, learning_rate_scale, plateaus
from testbed.core.errors import UserError
from testbed.core.registries import CLOUD_MODELS, DEFENCES
from testbed.core.registry import Entry, NoOptions
from testbed.core.seeds import torch_generator
from testbed.scenario.training import ProviderSection

CPU = torch.device("cpu")
SMALL_FUNNEL = {"front_end": "siftfunnel_cnn", "options": {"width": 32}, "defence": "siftfunnel"}


def section(**changes):
    return ProviderSection(**({"epochs": 3, "batch_size": 16, "threads": 1} | changes))


def some_images(count=40):
    rng = np.random.default_rng(0)
    return ProviderImages(
        rng.integers(0, 256, (count, 1, 32, 32), dtype=np.uint8),
        rng.integers(0, 10, count),
        rng.integers(0, 256, (20, 1, 32, 32), dtype=np.uint8),
        rng.integers(0, 10, 20),
    )


def training(chosen=None, data=None, tiers=1, device=CPU, shares=None, **device_spec):
    edges = [make_spec(**device_spec).build() for _ in range(tiers)]
    name, cloud_options = edges[0].front_end.cloud_model
    shape = edges[0].front_end.feature_shape
    trunk = CLOUD_MODELS.create(name, cloud_options, feature_shape=shape, num_classes=10)
    cloud = TieredCloudModel(trunk, [shape] * tiers, 10)
    initialise(cloud, torch_generator(0, "cloud weights"))
    return ProviderTraining(
        chosen or section(),
        1,
        [
            ProviderTier(edge, number, shares[number] if shares else 1.0)
            for number, edge in enumerate(edges)
        ],
        cloud,
        data or some_images(),
        device,
    )


def everything(found):
    tensors, plain = found.state()
    return {name: value.numpy().tobytes() for name, value in tensors.items()}, plain


def loss_by_hand(x, z, logits, labels):
    """SiftFunnel's loss with its published weights, in loops and in double precision."""
    count, classes = logits.shape
    targets = torch.full((count, classes), 0.25 / (classes - 1), dtype=torch.float64)
    for row, label in enumerate(labels.tolist()):
        targets[row, label] = 0.75
    task = 0.0
    for row in range(count):
        log_p = logits[row] - torch.log(torch.exp(logits[row]).sum())
        for column in range(classes):
            q = targets[row, column]
            task = task + q * (torch.log(q) - log_p[column])
    task = task / count

    def centred(flat):
        distances = [[torch.sqrt(((a - b) ** 2).sum() + 1e-10) for b in flat] for a in flat]
        matrix = torch.stack([torch.stack(row) for row in distances])
        rows, columns = matrix.mean(dim=1, keepdim=True), matrix.mean(dim=0, keepdim=True)
        return matrix - rows - columns + matrix.mean()

    a, b = centred(x.flatten(1)), centred(z.flatten(1))
    dcor = (a * b).mean() / torch.sqrt((a * a).mean() * (b * b).mean())
    redundancy = 0.0
    channels = z.shape[1]
    for image in z.flatten(2):
        for first in image:
            for second in image:
                u, v = first - first.mean(), second - second.mean()
                norms = torch.sqrt((u * u).sum() + 1e-10) * torch.sqrt((v * v).sum() + 1e-10)
                redundancy = redundancy + ((u * v).sum() / norms) ** 2
    redundancy = redundancy / (count * channels**2)
    return 5.0 * task + 2.0 * dcor + 0.03 * z.abs().mean() + 2.0 * redundancy, task


def test_one_sgd_step_descends_the_loss_computed_by_hand():
    optimiser = {"method": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.01}
    found = training(section(optimiser=optimiser), defence="siftfunnel")
    edge, cloud = found.tiers[0].edge, found.cloud
    x = torch.rand(6, 1, 32, 32)
    labels = torch.tensor([0, 3, 1, 9, 3, 4])
    cloud.trunk.layers[-1][2].p = 0.0  # dropout draws would have to be repeated by hand
    found.train_mode(True)
    edge_by_hand, cloud_by_hand = copy.deepcopy((edge.front_end, cloud))
    edge_by_hand, cloud_by_hand = edge_by_hand.double(), cloud_by_hand.double()

    z = edge_by_hand((x.double() - 0.3) / 0.4)
    loss, task = loss_by_hand(x.double(), z, cloud_by_hand(z), labels)
    before = [*edge_by_hand.parameters(), *cloud_by_hand.parameters()]
    gradients = torch.autograd.grad(loss, before)
    wanted = [w - 0.1 * (g + 0.01 * w) for w, g in zip(before, gradients, strict=True)]

    figures = found.joint.step(x, labels, torch.Generator())
    after = [*edge.front_end.parameters(), *cloud.parameters()]
    for new, by_hand in zip(after, wanted, strict=True):
        assert torch.allclose(new.double(), by_hand, atol=2e-5)
    moved = max(float((n - w).abs().max()) for n, w in zip(after, before, strict=True))
    assert moved > 1e-2
    assert float(figures[0]) == pytest.approx(float(task), rel=1e-5)
    assert float(figures[1]) == pytest.approx(float(loss - 5.0 * task), rel=1e-4)


@pytest.mark.parametrize("method", ["adam", "adamw", "sgd"])
def test_a_resumed_training_ends_with_the_same_bits(method):
    options = section(
        optimiser={"method": method, "clip_norm": 1.0},
        augmentation={"horizontal_flip": True, "crop_padding_px": 2, "brightness": 0.2},
        learning_rate_schedule="cosine",
    )
    device_spec = {"defence": "gaussian_noise"}
    whole, again = training(options, **device_spec), training(options, **device_spec)
    whole.run()
    again.run()
    assert everything(again) == everything(whole)

    class StopError(Exception):
        pass

    def stop(record):
        if record.epoch == 2:
            raise StopError

    cut = training(options, **device_spec)
    with pytest.raises(StopError):
        cut.run(stop)
    torch.manual_seed(99)
    torch.rand(7)
    resumed = training(options, **device_spec)
    tensors, plain = cut.state()
    # Files hold plain rows; the training's own layout is channels last.
    tensors = {name: value.contiguous().clone() for name, value in tensors.items()}
    resumed.load_state(tensors, json.loads(json.dumps(plain)))
    resumed.run()
    assert everything(resumed) == everything(whole)
    assert resumed.selected().keys() == whole.weights().keys()


def test_another_seed_of_the_batches_gives_other_weights():
    one, other = training(), training()
    other._seed = 2
    one.run()
    other.run()
    assert everything(one)[0] != everything(other)[0]


def test_training_learns_a_learnable_task():
    data = some_images(60)
    # The class is the brightness of one row: learnable, and the same for validation images.
    for images, labels in (
        (data.images, data.labels),
        (data.validation_images, data.validation_labels),
    ):
        images[:, 0, 4:12] = (labels * 25).astype(np.uint8)[:, None, None]
    found = training(section(epochs=12, batch_size=10), data)
    found.run()
    assert found.history[-1].training_loss < 0.7 * found.history[0].training_loss
    assert max(record.validation_accuracy for record in found.history) > 0.3


def test_the_best_epoch_is_kept_and_evaluates_as_it_was_recorded():
    found = training(section(epochs=4, selection="loss"))
    found.run()
    best = best_epoch(found.section, found.history)
    losses = [record.validation_loss for record in found.history]
    assert losses[best - 1] == min(losses)
    other = training()
    other.load_weights(found.selected())
    assert other.evaluate()[0] == found.history[best - 1].validation_loss


def test_batch_norm_follows_the_published_momentum_after_a_mean_of_the_first_batches():
    found = training(section(batch_size=8, epochs=1), some_images(96), **SMALL_FUNNEL)
    momenta = {id(layer): [] for layer, _ in found.averages}
    published = {id(layer): momentum for layer, momentum in found.averages}
    assert set(published.values()) == {0.1, 0.01}
    for step in range(12):
        found.weigh_batch(step)
        for layer, _ in found.averages:
            momenta[id(layer)].append(layer.momentum)
    for key, seen in momenta.items():
        assert seen == [max(published[key], 1.0 / (step + 1)) for step in range(12)]


def test_tiers_count_by_their_share_and_the_cloud_sees_all_of_them():
    optimiser = {"method": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    found = training(section(optimiser=optimiser), tiers=2, shares=(3.0, 1.0), defence="siftfunnel")
    found.cloud.trunk.layers[-1][2].p = 0.0
    with torch.no_grad():
        next(found.tiers[1].edge.front_end.parameters()).mul_(1.5)
    found.train_mode(True)
    x, labels = torch.rand(6, 1, 32, 32), torch.arange(6)
    fronts = [copy.deepcopy(tier.edge.front_end) for tier in found.tiers]
    cloud, defence = copy.deepcopy(found.cloud), found.tiers[0].edge.defence
    features = [front((x - 0.3) / 0.4) for front in fronts]
    logits = cloud.trunk(torch.cat(features)).split(6)
    targets = defence.targets(labels, 10)
    losses = [
        5.0 * torch.nn.functional.kl_div(p.log_softmax(1), targets, reduction="batchmean")
        + defence.penalty(make_batch(x, z))
        for p, z in zip(logits, features, strict=True)
    ]
    before = [p for module in (*fronts, cloud) for p in module.parameters()]
    gradients = torch.autograd.grad(0.75 * losses[0] + 0.25 * losses[1], before)
    wanted = [w - 0.1 * g for w, g in zip(before, gradients, strict=True)]
    found.joint.step(x, labels, torch.Generator())
    modules = (*(tier.edge.front_end for tier in found.tiers), found.cloud)
    after = [p for module in modules for p in module.parameters()]
    for new, by_hand in zip(after, wanted, strict=True):
        assert torch.allclose(new, by_hand, atol=1e-5)


class Adversarial(Defence):
    """Mixes channels before the release; trained against a classifier of the released means."""

    def build(self, image_shape, feature_shape, num_classes):
        channels = feature_shape[0]
        self.release_layers = torch.nn.Conv2d(channels, channels, 1)
        self.adversary = torch.nn.Linear(channels, num_classes)

    def release(self, z, rng):
        return self.release_layers(z)

    def adversary_loss(self, batch):
        guess = self.adversary(batch.released.mean(dim=(2, 3)))
        return torch.nn.functional.cross_entropy(guess, batch.labels)

    def penalty(self, batch):
        return -0.5 * self.adversary_loss(batch)

    def adversary_learning_rate(self, name):
        return {"weight": 0.02, "bias": 0.01}[name]


@pytest.fixture
def adversarial(monkeypatch):
    """Register this defence for one test."""
    DEFENCES.names()
    monkeypatch.setitem(
        DEFENCES._entries, "adversarial", Entry("adversarial", "", NoOptions, Adversarial)
    )
    return {"defence": "adversarial"}


def test_the_adversary_of_a_defence_is_updated_alternately_from_the_same_weights(adversarial):
    optimiser = {"method": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    found = training(section(optimiser=optimiser), **adversarial)
    found.cloud.trunk.layers[-1][2].p = 0.0
    found.train_mode(True)
    edge, defence = found.tiers[0].edge, found.tiers[0].edge.defence
    x, labels = torch.rand(6, 1, 32, 32), torch.arange(6)
    front, cloud = copy.deepcopy(edge.front_end), copy.deepcopy(found.cloud)
    mix, judge = copy.deepcopy(defence.release_layers), copy.deepcopy(defence.adversary)
    released = mix(front((x - 0.3) / 0.4))

    def judged(features):
        return torch.nn.functional.cross_entropy(judge(features.mean(dim=(2, 3))), labels)

    task = torch.nn.functional.cross_entropy(cloud(released, 0), labels)
    mine = [*front.parameters(), *mix.parameters(), *cloud.parameters()]
    gradients = torch.autograd.grad(task - 0.5 * judged(released), mine)
    theirs = dict(judge.named_parameters())
    against = torch.autograd.grad(judged(released.detach()), list(theirs.values()))
    found.joint.step(x, labels, torch.Generator())
    after = [
        *edge.front_end.parameters(),
        *defence.release_layers.parameters(),
        *found.cloud.parameters(),
    ]
    for new, old, gradient in zip(after, mine, gradients, strict=True):
        assert torch.allclose(new, old - 0.1 * gradient, atol=1e-5)
    moved = dict(defence.adversary.named_parameters())
    for (name, old), gradient in zip(theirs.items(), against, strict=True):
        # Adam's first step has the length of its learning rate.
        step = defence.adversary_learning_rate(name) * gradient / (gradient.abs() + 1e-8)
        assert torch.allclose(moved[name], old - step, atol=1e-5)


@pytest.mark.parametrize("name", DEFENCES.names())
def test_every_defence_trains_all_its_parameters(name):
    found = training(section(epochs=1, batch_size=20), defence=name)
    before = found.weights()
    found.run()
    after = found.weights()
    assert all(bool(torch.isfinite(value.float()).all()) for value in after.values())
    assert math.isfinite(found.history[0].penalty)
    trained = {f"tier0.{parameter}" for parameter in found.tiers[0].edge.own_parameters()}
    assert {key for key in trained if torch.equal(before[key], after[key])} == set()


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_modules_of_a_defence_and_int8_front_ends_are_kept_and_resumed(adversarial, precision):
    options, device_spec = section(epochs=2), adversarial | {"precision": precision}
    whole, cut = training(options, **device_spec), training(section(epochs=1), **device_spec)
    names = set(whole.weights())
    assert {"tier0.defence.release.weight", "tier0.defence.adversary.bias"} <= names
    assert any("quantisers" in name for name in names) == (precision == "int8")
    whole.run()
    cut.run()
    resumed = training(options, **device_spec)
    tensors, plain = cut.state()
    resumed.load_state({n: v.contiguous().clone() for n, v in tensors.items()}, plain)
    resumed.run()
    assert everything(resumed) == everything(whole)
    first, last = training(options, **device_spec).weights(), whole.weights()
    assert all(not torch.equal(first[name], last[name]) for name in names if "defence." in name)


def test_bf16_trains_close_to_fp32():
    exact = training(section(epochs=1), defence="siftfunnel")
    rough = training(section(epochs=1, precision="bf16"), defence="siftfunnel")
    exact.run()
    rough.run()
    losses = [found.history[0].training_loss for found in (exact, rough)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert all(value.dtype != torch.bfloat16 for value in rough.selected().values())


@pytest.mark.parametrize("front_end", ["cnn", "siftfunnel_cnn"])
@pytest.mark.parametrize("name", DEFENCES.names())
def test_losses_and_releases_are_computed_in_single_precision_under_bf16(
    monkeypatch, name, front_end
):
    options = SMALL_FUNNEL["options"] if front_end == "siftfunnel_cnn" else None
    found = training(section(precision="bf16"), defence=name, front_end=front_end, options=options)
    edge, seen, computed = found.tiers[0].edge, [], []
    edge.front_end.register_forward_hook(lambda module, inputs, z: computed.append(z.dtype))

    def watch(owner, method):
        original = getattr(owner, method)

        def watched(*given):
            result = original(*given)
            parts = [
                tensor
                for value in (*given, result)
                for tensor in vars(value if isinstance(value, Batch) else _Just(value)).values()
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
            ]
            seen.append(method)
            assert {tensor.dtype for tensor in parts} == {torch.float32}
            assert all(bool(torch.isfinite(tensor).all()) for tensor in parts)
            assert not torch.is_autocast_enabled("cpu")
            return result

        monkeypatch.setattr(owner, method, watched)

    for method in ("release", "penalty", "adversary_loss"):
        watch(edge.defence, method)
    found.train_mode(True)
    figures = found.joint.step(torch.rand(40, 1, 32, 32), torch.arange(40) % 10, torch.Generator())
    assert computed == [torch.bfloat16]
    assert {"release", "penalty"} <= set(seen)
    assert ("adversary_loss" in seen) == bool(edge.own_adversary())
    assert bool(torch.isfinite(figures).all())
    gradients = [p.grad for p in edge.own_parameters().values() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


class _Just:
    """Holds one value, so that it is read like the parts of a batch."""

    def __init__(self, value):
        self.value = value


def test_a_single_last_image_is_dropped():
    found = training(section(batch_size=13), some_images(40))
    assert [len(batch) for batch in found.batches(np.arange(40))] == [13, 13, 13]
    found.run()
    assert found.steps == 9


# Schedules and selection -----------------------------------------------------------------------


def record(epoch, loss, accuracy=0.5, training_loss=1.0):
    return EpochRecord(epoch, training_loss, 0.0, 0.5, loss, accuracy)


@pytest.mark.parametrize("patience", [0, 2])
def test_plateaus_are_those_of_torch(patience):
    losses = np.random.default_rng(1).uniform(0.5, 1.0, 60).cumsum() * -0.01
    losses = 3.0 + losses + np.random.default_rng(2).normal(0.0, 0.05, 60)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=patience)
    options = section(
        learning_rate_schedule="plateau", plateau_factor=0.5, plateau_patience_epochs=patience
    )
    history = []
    for epoch, loss in enumerate(losses, start=1):
        history.append(record(epoch, float(loss)))
        reference.step(float(loss))
        wanted = optimiser.param_groups[0]["lr"]
        if wanted > 1e-7:  # torch stops if a change would be smaller than its eps
            assert learning_rate_scale(options, history) == pytest.approx(wanted)
    assert plateaus([float(loss) for loss in losses], patience) > 2


def test_cosine_and_constant_scales():
    history = [record(1, 1.0)]
    assert learning_rate_scale(section(learning_rate_schedule="cosine"), []) == 1.0
    assert learning_rate_scale(
        section(learning_rate_schedule="cosine", epochs=2), history
    ) == pytest.approx(0.5)
    assert learning_rate_scale(section(learning_rate_schedule="constant"), history) == 1.0


def test_selection_takes_the_first_best_finite_epoch():
    history = [
        record(1, 2.0, 0.4),
        record(2, 1.0, 0.6),
        record(3, 0.5, 0.6),
        record(4, math.nan, 0.9),
    ]
    assert best_epoch(section(selection="accuracy"), history) == 2
    assert best_epoch(section(selection="loss"), history) == 3
    assert best_epoch(section(selection="last"), history) == 4


def test_training_ends_on_a_plateau_or_without_finite_numbers():
    options = section(epochs=50, early_stopping_epochs=2)
    history = [record(1, 1.0, 0.5), record(2, 1.0, 0.6), record(3, 1.0, 0.6)]
    assert not is_over(options, [])
    assert not is_over(options, history)
    assert is_over(options, [*history, record(4, 1.0, 0.1)])
    assert is_over(options, [record(1, 1.0, 0.5, math.nan)])
    assert is_over(section(epochs=3), history)


def test_a_precision_that_the_device_lacks_is_reported_in_one_sentence():
    assert settled(section(precision="fp16"), torch.device("cuda")).precision == "fp16"
    with pytest.raises(UserError, match=r"training\.provider\.precision: 'fp16' needs a GPU"):
        settled(section(precision="fp16"), CPU)


@pytest.mark.parametrize("extension", [*CPU_BF16, None])
def test_bf16_is_chosen_only_where_the_processor_has_it(monkeypatch, extension):
    found = {"avx512_bw": True, **{name: name == extension for name in CPU_BF16}}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    has = extension is not None
    assert settled(section(precision="auto"), CPU).precision == ("bf16" if has else "fp32")
    # Asked for by name it is used in any case, but a processor that emulates it says so.
    asked = settled(section(precision="bf16"), CPU)
    assert asked.precision == "bf16"
    assert (emulated(asked, CPU) is None) is has
    assert has or "emulates it, slower than fp32" in emulated(asked, CPU)
    assert emulated(section(), CPU) is None


def test_threads_are_all_cores_unless_given(monkeypatch):
    monkeypatch.setattr(machine, "available_cores", lambda: 6)
    assert settled(section(threads=None), CPU).threads == 6
    assert settled(section(threads=3), CPU).threads == 3
    monkeypatch.setattr(machine, "available_cores", lambda: 500)
    settled_here = settled(section(threads=None), CPU)
    assert settled_here.threads == 64
    assert settled(settled_here, CPU) == settled_here


def test_the_training_runs_with_its_threads():
    seen = []
    found = training(section(epochs=1, threads=2))
    before = torch.get_num_threads()
    found.run(lambda record: seen.append(torch.get_num_threads()))
    assert seen == [2]
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_trains_like_the_cpu_and_is_deterministic(precision):
    gpu = torch.device("cuda")
    device_spec = SMALL_FUNNEL | {"defence": "gaussian_noise"}
    runs = []
    for _ in range(2):
        found = training(section(precision=precision), device=gpu, **device_spec)
        found.run()
        runs.append(found)
    assert everything(runs[0]) == everything(runs[1])
    assert all(value.device == CPU for value in runs[0].selected().values())
    on_cpu = training(section(), **device_spec)
    on_cpu.run()
    assert runs[0].history[0].training_loss == pytest.approx(
        on_cpu.history[0].training_loss, rel=0.02
    )
