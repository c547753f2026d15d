"""Training images as victims: what is attacked, how it is scored, resumed runs, bounded memory."""

import copy

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from small import TINY, make_spec
from whole_runs import StopAt, everything, results_of, run

from clients.deployed import DeployedFrontEnd
from clients.local_training import LocalTraining
from testbed.core.state_dicts import under
from testbed.engine.attacking.training_victims import front_end_in_training
from testbed.engine.network.training_tap import RoundWeights, TrainingTap
from testbed.engine.setting.positions import devices_read
from testbed.engine.setting.run_context import read_run_inputs
from testbed.results.reading import read_results
from testbed.scenario.loading import validate_scenario
from testbed.wire import protocol
from testbed.wire.records import to_record

HALF = {"tap": "links", "share_of_links": 0.5}
BOTH = {"name": "eaves", "position": HALF, "attack": "ridge", "victims": "both"}
ASKS = {"weights": False, "queries": 100}


def scenario_tree():
    tree = copy.deepcopy(TINY)
    tree["arms"] = tree["arms"][:1]
    tree["adversaries"] = [
        BOTH | {"training_rounds": [1, -1]},
        {"name": "cloud", "position": {"tap": "cloud"}, "attack": "ridge", "victims": "training"}
        | {"knowledge": ASKS},
    ]
    return tree


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """Return the folder of a run whose adversaries attack training images."""
    return run(scenario_tree(), tmp_path_factory.mktemp("training") / "run")


@pytest.fixture(scope="module")
def inputs():
    return read_run_inputs(validate_scenario(scenario_tree(), "test"))


def attacks_on_training(folder):
    (arm,) = results_of(folder)["arms"]
    return {
        (item["result"]["adversary"], item["result"]["attack"]): item
        for item in arm["training_attacks"]
    }


def test_training_images_of_the_tapped_devices_are_rebuilt(attacked, inputs):
    found, data = attacks_on_training(attacked), inputs.data
    ridge, mean = found["eaves", "ridge"], found["eaves", "mean_image"]["result"]
    assert ridge["rounds"] == [1, 3]
    assert ridge["result"]["scores"]["mse"]["value"] < mean["scores"]["mse"]["value"] / 4
    assert ridge["result"]["scores"]["reidentification"]["value"] > 0.9
    assert "front-end of the round" in ridge["result"]["threat_model"]
    read = devices_read("eaves", inputs.scenario.adversaries[0].position, inputs.fleet, 3, None)
    images = [victim["victim"] for victim in ridge["by_victim"]]
    assert len(set(images)) == len(images) == ridge["sent_images"] > 20
    assert ridge["releases"] == sum(victim["releases"] for victim in ridge["by_victim"])
    for victim in ridge["by_victim"]:
        assert victim["device"] in read
        assert victim["victim"] in data.device_images[victim["device"]]
        assert victim["label"] == data.pool.labels[victim["victim"]]
    originals = read_results(attacked).samples["training/original/undefended/eaves"]
    shown = data.pool.images[images[: len(originals)]].transpose(0, 2, 3, 1)
    assert len(shown) > 2
    np.testing.assert_array_equal(originals, shown)
    per_victim = [victim["mse"] for victim in ridge["by_victim"]]
    assert np.mean(per_victim) == pytest.approx(ridge["result"]["scores"]["mse"]["value"])


def test_labels_are_sent_in_clear_and_queries_stay_limited(attacked):
    found = attacks_on_training(attacked)
    with_labels, without = found["cloud", "class_mean_image"], found["cloud", "mean_image"]
    assert with_labels["result"]["scores"]["mse"]["value"] < (
        0.8 * without["result"]["scores"]["mse"]["value"]
    )
    assert with_labels["result"]["threat_model"].endswith("the labels sent")
    assert 0 < found["cloud", "ridge"]["result"]["queries"] <= 100
    assert found["cloud", "ridge"]["rounds"] == [3]


def test_they_are_apart_from_the_victims_of_requests(attacked):
    summary = results_of(attacked)
    (arm,) = summary["arms"]
    assert {attack["adversary"] for attack in arm["attacks"]} == {"eaves"}
    assert all(check["passed"] for check in summary["self_checks"])
    page = (attacked / "report.html").read_text()
    assert "These victims are training images, not images of requests" in page
    assert "eaves: training images" in page


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_resumed_run_attacks_the_same_training_images(attacked, tmp_path, rounds):
    with pytest.raises(KeyboardInterrupt):
        run(scenario_tree(), tmp_path / "run", StopAt("train undefended", rounds))
    resumed = run(scenario_tree(), tmp_path / "run", resume=True)
    assert everything(resumed) == everything(attacked)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"victims": "train"}, r"victims.*'serving', 'training' or 'both'"),
        ({"victims": "serving", "training_rounds": [1]}, "its victims are requests"),
        ({"training_rounds": [4]}, r"no round 4; the fleet trains in 3: give 1 to 3, or -1 to -3"),
        ({"training_rounds": [0]}, "no round 0"),
        ({"attack": "label_inference"}, "infers labels, which training messages carry in clear"),
        ({"victims": "training", "transfer": True}, r"transfer: it is measured on requests"),
        ({"victims": "training", "curve": [0.5]}, r"curve: it is measured on requests"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(tiny, refused, changes, refusal):
    tiny["adversaries"] = [BOTH | changes]
    refused(tiny, rf"adversaries\.(eaves|0)\.?{'.*'}{refusal}")


def test_a_provider_sends_no_training_messages(tiny, refused):
    tiny["adversaries"] = [BOTH]
    tiny["training"] = {"protocol": "provider", "cohort_size": 4}
    refused(tiny, r"eaves\.victims: 'both' needs training messages .* 'victims: serving'")
    tiny["training"]["fine_tune_rounds"] = 2  # in which devices take part
    assert validate_scenario(tiny, "test").adversaries[0].rounds_attacked(2) == [2]


@pytest.fixture
def refused():
    """Return a function that expects one sentence of refusal."""
    from testbed.core.errors import UserError

    def expect(tree, pattern):
        with pytest.raises(UserError, match=pattern) as error:
            validate_scenario(tree, "test")
        assert "\n" not in str(error.value)

    return expect


def test_the_front_end_of_a_round_releases_what_a_device_in_training_sends(host_data):
    device_spec = make_spec(batch_size=6)
    model = device_spec.build()
    parameters, statistics = model.initial_weights()
    local = LocalTraining(model, 1, 4, *host_data.training(1), parameters, statistics)
    images = local._batch(0)[0].numpy()
    sent, _ = local.forward(0)
    weights = [{name: v.numpy() for name, v in part.items()} for part in (parameters, statistics)]
    in_training = front_end_in_training(device_spec, RoundWeights(*weights), images)
    # The variance that batches are divided by and the one that is kept differ by one pixel.
    np.testing.assert_allclose(in_training.query(images, 0), sent.numpy(), rtol=1e-3, atol=1e-3)
    serving = DeployedFrontEnd(device_spec, *weights)
    assert np.abs(serving.query(images, 0) - sent.numpy()).max() > 0.1


def message(step, server_round=1, images=4):
    """Return a training step's request and reply, with features that name their place."""
    numbers = {protocol.SERVER_ROUND: server_round, protocol.STEP: step, protocol.TIER: 1}
    content = RecordDict({protocol.CONFIG: ConfigRecord(numbers)})
    if step == 0:
        content[protocol.ARRAYS] = to_record({"w": torch.full((2,), float(server_round))})
        content[protocol.STATISTICS] = to_record({"mean": torch.zeros(2)})
    z = torch.arange(images * 2.0).reshape(images, 2, 1, 1) + 100 * step
    features = {protocol.Z: z, protocol.TARGETS: torch.eye(10)[:images]}
    request = Message(content, 1, protocol.FORWARD)
    reply = Message(RecordDict({protocol.FEATURES: to_record(features)}), reply_to=request)
    return request, reply


@pytest.mark.usefixtures("identity")
def test_a_tap_keeps_the_images_that_the_seed_draws_first():
    ranks = np.array([5, 3, 0, 7, -1, 1, 2, 6])
    tap = TrainingTap([1, 2], ranks, lambda device, _, step: np.arange(4) + 4 * step, 9, most=3)
    for server_round in (1, 2, 3):
        for step in (0, 1):
            tap.read(0, *message(step, server_round))
    tap.read(9, *message(0))
    assert tap.victims == [2, 5, 6]
    assert tap.seen == 7  # image 4 is never a victim
    sent = tap.sent()
    assert list(sent) == [(1, 1), (2, 1)]
    assert [item.image for item in sent[2, 1]] == [2, 5, 6]
    assert [item.label for item in sent[2, 1]] == [2, 1, 2]
    assert [item.features.ravel().tolist() for item in sent[1, 1]][1] == [102.0, 103.0]
    assert tap.front_end((2, 1)).parameters["w"].tolist() == [2.0, 2.0]
    again = TrainingTap([1, 2], ranks, lambda *_: np.arange(4), most=3)
    again.load_state(dict(sorted(under("", tap.state()).items())))
    assert (again.victims, again.seen) == (tap.victims, tap.seen)
    for place, items in tap.sent().items():
        for one, other in zip(again.sent()[place], items, strict=True):
            assert (one.image, one.device, one.label) == (other.image, other.device, other.label)
            np.testing.assert_array_equal(one.features, other.features)
    faulty = message(0, images=3)
    again.read(0, *faulty)  # three features of a batch of four: from a faulty device
    assert len(again.sent()[1, 1]) == 3
