"""The ClientApp: Flower's stateless runtime and the hosts' memory give the same bits."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from small import make_spec

from clients import edge
from clients.edge import EdgeRuntime, build_client_app
from testbed.scenario.training import EdgeOptimiserSection
from testbed.wire import protocol
from testbed.wire.encoding import decode
from testbed.wire.records import to_record, to_tensors

pytestmark = pytest.mark.usefixtures("identity")
STEPS = 3


def context(device=0):
    return Context(1, device + 1, {"partition-id": device}, RecordDict(), {})


def config(step, **extra):
    values = {
        protocol.SERVER_ROUND: 1,
        protocol.STEP: step,
        protocol.STEPS: STEPS,
        protocol.STEPS_BEFORE: 7,
        protocol.LEARNING_RATE_SCALE: 0.5,
    } | extra
    return ConfigRecord(values)


def weights_of(device_spec):
    model = device_spec.build()
    parameters, statistics = model.initial_weights()
    records = {
        protocol.ARRAYS: to_record(parameters),
        protocol.STATISTICS: to_record(statistics),
    }
    moments = {name: value + 0.25 for name, value in model.initial_moments().items()}
    return records | ({protocol.MOMENTS: to_record(moments)} if moments else {})


def run_round(device_spec, data, keep_in_memory, new_process_each_message=False, **extra):
    """Act as the server for one device and one round; return all replies' arrays."""
    app = build_client_app([device_spec], data, keep_in_memory)
    here, replies = context(), []
    for step in range(STEPS):
        content = RecordDict({protocol.CONFIG: config(step, **extra)})
        if step == 0:
            content.update(weights_of(device_spec))
        reply = app(Message(content, 1, protocol.FORWARD), here)
        replies.append(reply)
        z = decode(to_tensors(reply.content[protocol.FEATURES])).numpy()
        gradient = np.cos(np.arange(z.size, dtype=np.float32)).reshape(z.shape) / z.size
        if new_process_each_message:
            app = build_client_app([device_spec], data, keep_in_memory)
        content = RecordDict(
            {
                protocol.CONFIG: config(step),
                protocol.GRADIENTS: ArrayRecord({protocol.Z: Array(gradient)}),
            }
        )
        replies.append(app(Message(content, 1, protocol.BACKWARD), here))
        if new_process_each_message:
            app = build_client_app([device_spec], data, keep_in_memory)
    return [
        {
            f"{key}/{name}": array.numpy()
            for key, record in reply.content.array_records.items()
            for name, array in record.items()
        }
        for reply in replies
    ]


@pytest.mark.parametrize("extra", [{}, {"proximal-mu": 0.5}])
@pytest.mark.parametrize("method", ["sgd", "adam", "sign"])
@pytest.mark.parametrize("defence", ["none", "siftfunnel", "adversarial_decoder", "disco", "mid"])
def test_state_in_memory_or_in_the_context_gives_equal_bits(host_data, defence, method, extra):
    device_spec = make_spec(
        defence=defence,
        options={"cut": 2, "width": 8},
        optimiser=EdgeOptimiserSection(method=method, learning_rate=0.01),
    )
    in_memory = run_round(device_spec, host_data, keep_in_memory=True, **extra)
    stateless = run_round(
        device_spec, host_data, keep_in_memory=False, new_process_each_message=True, **extra
    )
    for one, other in zip(in_memory, stateless, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)
    assert any(key.startswith(protocol.ARRAYS) for key in in_memory[-1])
    travels = any(key.startswith(protocol.MOMENTS) for key in in_memory[-1])
    assert travels == (method == "adam" or defence in ("adversarial_decoder", "disco"))


def test_activations_are_kept_up_to_a_number_of_bytes(host_data, monkeypatch):
    spec = make_spec()
    runtime = EdgeRuntime(spec, host_data, keep_in_memory=True)
    content = RecordDict({**weights_of(spec), protocol.CONFIG: config(0)})
    trainings = [runtime.begin(device, 1, content) for device in range(4)]
    sent, _ = runtime.forward(trainings[0], 0)
    assert runtime._bytes_per_image > 8 * 32 * 32 * 4  # more than the first convolution's output
    room = 2.5 * runtime._bytes_per_image * len(sent)
    monkeypatch.setattr(edge, "MAX_KEPT_BYTES", room)
    for training in trainings[1:]:
        runtime.forward(training, 0)
    assert [training.kept_images > 0 for training in trainings] == [True, True, False, False]
    trainings[0].backward(0, sent)
    runtime.forward(trainings[3], 0)
    assert trainings[3].kept_images == len(sent)


def test_only_the_last_reply_carries_the_front_end(host_data):
    replies = run_round(make_spec(), host_data, keep_in_memory=True)
    carrying = [any(key.startswith(protocol.ARRAYS) for key in reply) for reply in replies]
    assert carrying == [False] * (2 * STEPS - 1) + [True]


def test_inference_runs_the_deployed_weights(host_data):
    device_spec = make_spec()
    app, here = build_client_app([device_spec], host_data), context(2)
    deployed = RecordDict(weights_of(device_spec))
    deployed[protocol.CONFIG] = ConfigRecord({protocol.VERSION: "deployed"})
    app(Message(deployed, 3, protocol.DEPLOY), here)
    request = RecordDict({protocol.CONFIG: ConfigRecord({protocol.REQUEST: 7, protocol.IMAGE: 21})})
    reply = app(Message(request, 3, protocol.INFER), here)
    z = reply.content[protocol.FEATURES][protocol.Z].numpy()
    assert z.shape == (1, 8, 16, 16)
    assert list(reply.content.array_records) == [protocol.FEATURES]


def test_enrolment_counts_the_devices_images(host_data):
    app = build_client_app([make_spec()], host_data)
    reply = app(Message(RecordDict(), 2, protocol.ENROL), context(1))
    assert reply.content[protocol.METRICS][protocol.NUM_EXAMPLES] == 10
