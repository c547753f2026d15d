"""Every component computes on the device that ``engine.device`` names, on a pretended GPU.

Values are computed as on the CPU, so that results must agree with the CPU's. What a test does
between two processes (messages, evidence) is on the CPU, as between real ones.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from pretended_gpu import NOT_DETERMINISTIC, MixedDevicesError, pretended_gpu
from small import make_deployed, make_spec
from torch.nn import functional
from whole_runs import results_of, run

from clients.edge import build_client_app
from server.cloud import Cloud
from server.edge_interface import ProviderTier
from server.entry_layers import TieredCloudModel
from server.provider import ProviderImages, ProviderTraining
from testbed.adversaries.base import Evidence, Intercepts, LabelledImages
from testbed.adversaries.mounting import mount
from testbed.adversaries.training_attacker import TrainingView, WatchedStep
from testbed.core.compute import as_array, compute_device, computing_on, on_device
from testbed.core.registries import ATTACKS, CLOUD_MODELS, DEFENCES, FRONT_ENDS
from testbed.core.seeds import torch_generator
from testbed.engine.hosts.host import HostData
from testbed.privacy.error_bounds import NoiseBounds, jacobian_fault, smoothed
from testbed.privacy.mutual_information import ESTIMATORS, CriticTraining, estimate_information
from testbed.privacy.unseen import unseen_bound
from testbed.scenario.components import Component
from testbed.scenario.training import CloudOptimiserSection, EdgeOptimiserSection, ProviderSection
from testbed.wire import protocol
from testbed.wire.encoding import decode
from testbed.wire.records import to_record, to_tensors

pytestmark = pytest.mark.usefixtures("identity")
STEPS, CLASSES = 2, 3
SHAPE = (3, 16, 16)
DESIGN = Component(name="cnn", options={"cut": 1, "width": 8})
DECODER = {"max_epochs": 2, "min_epoch_steps": 3}
SHORT = {
    "residual_decoder": DECODER | {"augment": True},
    "averaged_decoder": DECODER | {"capacity": "small"},
    "white_box": {"steps": 8, "tuning_images": 2, "restarts": 3, "decoder": DECODER},
    "learned_prior": {
        "training_steps": 3,
        "levels": 2,
        "steps_per_level": 2,
        "tuning_images": 2,
        "start": "decoder",
        "decoder": DECODER,
    },
    "substitute": {"steps": 3, "decoder": DECODER},
    "sdar": {"updates_per_step": 2},
    "fsha": {"pilot_steps": 2, "updates_per_step": 2},
}


def agree(on_gpu, on_cpu):
    """Compare results of the two devices; kernels for several tensors at once may round."""
    assert set(on_gpu) == set(on_cpu)
    for name, value in on_cpu.items():
        np.testing.assert_allclose(on_gpu[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def on_both(compute, computes_there=True):
    """Return what a computation gives on the pretended GPU, which must agree with the CPU."""
    expected = compute()
    with pretended_gpu() as gpu:
        found = compute()
    agree(found, expected)
    assert bool(gpu.operations) == computes_there
    return gpu


# The pretended GPU itself ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(3).mul_(x),
        lambda x: torch.stack([x.sum(), torch.ones(())]),
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: x.normal_(),
        lambda x: x.normal_(generator=torch.Generator()),
        lambda x: torch.rand(3, device=x.device),
        lambda x: functional.dropout(x, 0.5),
        lambda x: torch.ones(3)[(x > 2.0).nonzero()],
    ],
)
def test_the_pretended_gpu_refuses_what_a_gpu_refuses(wrong):
    with pretended_gpu(), pytest.raises(MixedDevicesError):
        wrong(on_device(torch.ones(3)))


def test_the_pretended_gpu_allows_what_a_gpu_allows():
    with pretended_gpu() as gpu:
        x = on_device(torch.ones(3))
        moved = torch.nn.Linear(3, 2).to(x.device)
        y = moved(x)[torch.tensor([0])] * torch.tensor(2.0) + torch.zeros(1, device=x.device)
        y.sum().backward()
        copied = torch.zeros(1).copy_(y)
        assert {x.device, y.device, moved.weight.grad.device} == {torch.device("cuda:0")}
        assert copied.device == y.cpu().device == torch.device("cpu")
        assert as_array(y).shape == (1,)
    assert gpu.operations


# Devices --------------------------------------------------------------------------------------


def host_data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 1, 32, 32), dtype=np.uint8)
    return HostData(images, rng.integers(0, 10, 12), [np.arange(12)])


def one_device(device_spec, keep_in_memory=True, **extra):
    """Train a device for a round, deploy to it and serve a request; return all that it sends."""
    app = build_client_app([device_spec], host_data(), keep_in_memory)
    parameters, statistics = device_spec.build().initial_weights()
    weights = {protocol.ARRAYS: to_record(parameters), protocol.STATISTICS: to_record(statistics)}
    moments = device_spec.build().initial_moments()
    first = weights | ({protocol.MOMENTS: to_record(moments)} if moments else {})
    here, sent = Context(1, 1, {"partition-id": 0}, RecordDict(), {}), {}

    def ask(kind, content):
        reply = app(Message(RecordDict(content), 1, kind), here)
        for record in reply.content.array_records.values():
            number = len(sent)
            sent.update({f"{number} {name}": as_array(t) for name, t in to_tensors(record).items()})
        return reply

    for step in range(STEPS):
        values = {
            protocol.SERVER_ROUND: 1,
            protocol.STEP: step,
            protocol.STEPS: STEPS,
            protocol.STEPS_BEFORE: 1,
            protocol.LEARNING_RATE_SCALE: 0.5,
            **extra,
        }
        config = {protocol.CONFIG: ConfigRecord(values)}
        reply = ask(protocol.FORWARD, config | (first if step == 0 else {}))
        z = decode(to_tensors(reply.content[protocol.FEATURES]))
        gradients = to_record({protocol.Z: z.cos() / z.numel()})
        ask(protocol.BACKWARD, config | {protocol.GRADIENTS: gradients})
    version = ConfigRecord({protocol.VERSION: "deployed"})
    ask(protocol.DEPLOY, weights | {protocol.CONFIG: version})
    request = ConfigRecord({protocol.IMAGE: 3, protocol.REQUEST: 5})
    ask(protocol.INFER, {protocol.CONFIG: request})
    return sent


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", DEFENCES.names())
def test_devices_with_every_defence(name, precision):
    gpu = on_both(lambda: one_device(make_spec(defence=name, precision=precision)))
    assert "aten::convolution_backward" in gpu.operations


def narrow(front_end):
    """Return the options of a front-end of few channels, where it has a width."""
    return {"width": 32} if "width" in FRONT_ENDS.entry(front_end).options.model_fields else {}


@pytest.mark.parametrize("name", FRONT_ENDS.names())
def test_devices_with_every_front_end(name):
    on_both(lambda: one_device(make_spec(name, narrow(name), defence="siftfunnel")))


@pytest.mark.parametrize("method", ["sgd", "adam", "sign"])
@pytest.mark.parametrize("keep_in_memory", [True, False])
def test_devices_with_every_optimiser_and_their_state(method, keep_in_memory):
    optimiser = EdgeOptimiserSection(method=method, weight_decay=0.01)
    spec = make_spec(optimiser=optimiser, defence="adversarial_decoder")
    on_both(lambda: one_device(spec, keep_in_memory, **{"proximal-mu": 0.1}))


# The cloud and the provider -------------------------------------------------------------------


def cloud_models():
    """Return every registered cloud model with the narrow front-end that it continues."""
    found = {}
    for name in FRONT_ENDS.names():
        front_end = FRONT_ENDS.create(name, narrow(name), image_shape=(1, 32, 32))
        found.setdefault(front_end.cloud_model[0], front_end)
    return found


def test_a_front_end_is_known_for_every_cloud_model():
    assert set(cloud_models()) == set(CLOUD_MODELS.names())


@pytest.mark.parametrize("name", CLOUD_MODELS.names())
def test_every_cloud_model_trains_answers_and_resumes(name):
    front_end = cloud_models()[name]
    shape, other = front_end.feature_shape, (4, 16, 16)

    def new_cloud():
        torch.manual_seed(0)
        options = front_end.cloud_model[1]
        trunk = CLOUD_MODELS.create(name, options, feature_shape=shape, num_classes=CLASSES)
        model = TieredCloudModel(trunk, [shape, other], CLASSES)
        return Cloud(model, CloudOptimiserSection(), seed=1, threads=1)

    def compute():
        rng = torch.Generator().manual_seed(1)
        sent = [torch.randn(4, *size, generator=rng) for size in (shape, other, shape)]
        targets = [torch.eye(CLASSES)[torch.arange(4) % CLASSES]] * 3
        first, second = new_cloud(), new_cloud()
        first.step(sent, targets, 1, 0, [0, 1, 0])
        second.load_state(first.state())
        result = second.step(sent, targets, 1, 1, [0, 1, 0])
        assert all(value.device.type == "cpu" for value in second.state().values())
        gradients = to_tensors(to_record(dict(zip("abc", result.gradients, strict=True))))
        answers = second.answer(sent[1], 1)
        assert answers.device.type == "cpu"
        return {"loss": result.loss, "answers": answers.numpy()} | gradients

    on_both(compute)


@pytest.mark.parametrize("name", DEFENCES.names())
def test_the_provider_trains_every_defence_and_resumes(name):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 1, 32, 32), dtype=np.uint8)
    data = ProviderImages(images, rng.integers(0, 10, 20), images[:6], rng.integers(0, 10, 6))
    augmentation = {"horizontal_flip": True, "crop_padding_px": 2, "brightness": 0.2}
    augmentation |= {"contrast": 0.2, "saturation": 0.2, "hue": 0.2}
    section = ProviderSection.model_validate(
        {"epochs": 2, "batch_size": 8, "precision": "fp32", "optimiser": {"clip_norm": 1.0}}
        | {"augmentation": augmentation}
    )

    def training():
        edge = make_spec(defence=name).build()
        shape = edge.front_end.feature_shape
        torch.manual_seed(0)
        cloud_model, options = edge.front_end.cloud_model
        trunk = CLOUD_MODELS.create(cloud_model, options, feature_shape=shape, num_classes=10)
        cloud = TieredCloudModel(trunk, [shape], 10)
        return ProviderTraining(section, 1, [ProviderTier(edge)], cloud, data, compute_device())

    def compute():
        first, second = training(), training()
        states = []
        first.run(lambda record: states.append(copy.deepcopy(first.state())))
        second.load_state(*states[0])
        second.run()
        assert all(value.device.type == "cpu" for value in states[0][0].values())
        return {name: value.numpy() for name, value in second.selected().items()}

    on_both(compute)


# Adversaries ----------------------------------------------------------------------------------


def smooth_images(count, shape=SHAPE):
    coarse = torch.rand(count, shape[0], 5, 5, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, shape[1:], mode="bicubic").clamp(0, 1).numpy()


def a_front_end(defence="gaussian_noise", shape=SHAPE):
    statistics = {"channel_mean": (0.5,) * shape[0], "channel_std": (0.3,) * shape[0]}
    return make_deployed(image_shape=shape, num_classes=CLASSES, defence=defence, **statistics)


def evidence():
    images, labels = smooth_images(40), np.arange(40, dtype=np.int64) % CLASSES
    with computing_on(torch.device("cpu")):
        features = a_front_end().query(images[30:], 10_000)
    return Evidence(
        CLASSES,
        LabelledImages(images[:24], labels[:24]),
        LabelledImages(images[24:30], labels[24:30]),
        Intercepts(features, labels[30:]),
        a_front_end(),
        architecture=DESIGN,
        apply_to={"other": features[:3]},
    )


def watched(name, given):
    """Return what an attack learns in two steps of training, resumed after the first."""
    attack = ATTACKS.create(name, SHORT[name])
    features = given.intercepts.features
    view = TrainingView(CLASSES, given.auxiliary, DESIGN, features.shape[1:])
    sent = [on_device(torch.tensor(part)) for part in (features[:4], features[4:])]
    targets = [on_device(torch.eye(CLASSES)[torch.arange(len(z)) % CLASSES]) for z in sent]
    step = WatchedStep(sent, targets, [0.01 * z for z in sent], lambda z: z.flatten(1)[:, :CLASSES])
    first, second = attack.training_attacker(view, 0), attack.training_attacker(view, 0)
    first.watch(step)
    second.load_state({key: value.cpu() for key, value in first.state().items()})
    second.watch(step)
    return second.memory()


@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_attack(name):
    attack = ATTACKS.entry(name).factory
    watches = attack.threat.watches_training

    def compute():
        given = evidence()
        learned = watched(name, given) if watches else None
        granted = dataclasses.replace(given, trained=learned)
        found = mount(name, SHORT.get(name, {}), granted, seed=0)
        return {"images": found.images, **found.applied, **(learned or {})}

    on_both(compute, computes_there=not attack.is_anchor)


@pytest.mark.parametrize("defence", DEFENCES.names())
def test_error_bounds_of_every_defence(defence):
    shape = (3, 8, 8)
    images = torch.from_numpy(smooth_images(9, shape))

    def compute():
        front_end = a_front_end(defence, shape)
        points = smoothed(images, torch_generator(0, "points"))
        fault = jacobian_fault(front_end.runner.signal, points, torch_generator(0, "fault"))
        if fault:
            return {}
        bounds = NoiseBounds(front_end.runner.signal, points, 64, torch_generator(0, "probes"))
        small = unseen_bound(
            lambda x: front_end.runner.signal(x)[:, :2, :2, :2],
            points,
            torch_generator(0, "unseen"),
        )
        return {
            "dfil": bounds.dfil(0.1).value,
            "spectrum": bounds.spectrum(0.1).value,
            "unseen": -1.0 if small.value is None else small.value,
        }

    on_both(compute)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_critics_of_information(estimator):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 6)).astype(np.float32)
    brief = CriticTraining(epochs=3, batch_size=8)
    on_both(lambda: {"nats": estimate_information(x, x[:, :4], estimator, 0, brief).nats or 0.0})


# Whole runs -----------------------------------------------------------------------------------


def numbers(tree, path=""):
    """Yield the leaves of a JSON tree by their path."""
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            yield from numbers(value, f"{path}/{key}")
    else:
        yield path, tree


@pytest.mark.parametrize("protocol_name", ["split_federated", "provider"])
def test_a_whole_run_gives_the_figures_of_the_cpu(tiny, tmp_path, protocol_name, monkeypatch):
    monkeypatch.setenv("TESTBED_MODELS_DIR", str(tmp_path / "models"))
    tiny["training"] |= {"protocol": protocol_name, "rounds": 2}
    tiny["training"]["provider"] = {"epochs": 2, "precision": "fp32"}
    tiny["evaluation"]["mutual_information"] = True
    tiny["data"]["max_images"] = 600
    tiny["arms"], tiny["adversaries"] = tiny["arms"][1:], tiny["adversaries"][:1]
    tiny["fleet"]["infeasible"] = "offload_raw"
    tiny["adversaries"].append(
        {"name": "insider", "position": {"tap": "cloud"}, "knowledge": {"weights": True}}
        | {"attack": {"name": "white_box", **SHORT["white_box"]}}
    )
    if protocol_name == "split_federated":
        tiny["adversaries"].append(
            {"name": "observer", "position": {"tap": "cloud"}}
            | {"attack": {"name": "sdar", **SHORT["sdar"]}}
        )
    on_cpu = results_of(run(tiny, tmp_path / "cpu"))
    with pretended_gpu() as gpu:
        tiny["engine"]["device"] = "auto"
        folder = run(tiny, tmp_path / "gpu")
        assert results_of(run(tiny, folder, resume=True)) == results_of(folder)
    assert "device: cuda" in (folder / "scenario.resolved.yaml").read_text()
    assert '"device": "cuda (pretended' in (folder / "host.json").read_text()
    assert not gpu.operations & NOT_DETERMINISTIC
    found, expected = dict(numbers(results_of(folder))), dict(numbers(on_cpu))
    assert set(found) == set(expected)
    for path, value in expected.items():
        if isinstance(value, float):
            assert found[path] == pytest.approx(value, rel=1e-2, abs=1e-4), path
        elif not isinstance(value, str):
            assert found[path] == value, path
