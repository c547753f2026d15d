"""Devices that crash or send invalid or too large replies: each fails alone and is reported."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from faults.devices import BAD_DEVICES, spoil
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from whole_runs import results_of, run

from testbed.engine.hosts.host import Host, HostData, node_of
from testbed.wire.size import serialised_bytes


@pytest.fixture
def fleet(tiny):
    """Eight devices that are always online and train in every round."""
    tiny["fleet"] |= {"mix": tiny["fleet"]["mix"][:1], "availability": "always"}
    tiny["training"] |= {"cohort_size": 8, "rounds": 2}
    tiny["arms"] = tiny["arms"][:1]
    return tiny


def test_bad_devices_fail_alone(fleet, tmp_path, monkeypatch):
    spoil(monkeypatch.setattr)
    folder = run(fleet, tmp_path / "spoilt")
    results = results_of(folder)
    (arm,) = results["arms"]
    assert results["status"] == "complete"
    assert all(check["passed"] for check in results["self_checks"])
    in_training = [kind for kind in BAD_DEVICES if kind.spoils_training]
    assert arm["training"]["failed"] == 2 * len(in_training)  # once a round
    assert arm["training"]["participations"] == 2 * (8 - 4)  # the NaN came with the last reply
    assert all(np.isfinite(arm["accuracy"]["test"][key]) for key in ("value", "low", "high"))
    served = arm["serving"]
    silent = [kind.device for kind in BAD_DEVICES if kind.spoils_serving]
    rows = pq.read_table(folder / "requests.parquet").to_pylist()
    assert served["failed"] == sum(row["device"] in silent for row in rows) > 0
    assert all(row["status"] == "failed" for row in rows if row["device"] in silent)
    page = (folder / "report.html").read_text()
    for kind in BAD_DEVICES:
        if kind.said:
            assert any(f"device {kind.device}: " in e and kind.said in e for e in arm["errors"])
            assert f"device {kind.device}: " in page


LONE_SURROGATE = "\ud800"


def raise_it(message):
    raise ValueError(LONE_SURROGATE)


def raise_object(message):
    raise ValueError(object())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda message: None, "AttributeError"),
        (
            lambda message: Message(
                RecordDict({"c": ConfigRecord({"a": LONE_SURROGATE})}), reply_to=message
            ),
            "UnicodeEncodeError",
        ),
        (raise_it, r"ValueError: \ud800"),
        (raise_object, "ValueError: <object object>"),  # without its address: it is in the results
    ],
)
def test_an_invalid_reply_fails_its_device_alone(answer, said):
    app = ClientApp()

    @app.query()
    def query(message, context):
        if context.node_config["partition-id"] == 0:
            return answer(message)
        return Message(RecordDict(), reply_to=message)

    rows = [np.arange(1), np.arange(1)]
    host = Host(HostData(np.zeros((1, 1, 8, 8), np.uint8), np.zeros(1, np.int64), rows))
    host.install_app(lambda data: app)
    messages = [Message(RecordDict(), node_of(device), "query") for device in range(2)]
    bad, good = host.handle(messages)
    assert bad.reply.error.reason.startswith(f"device 0: {said}")
    assert bad.uplink_bytes == serialised_bytes(bad.reply)
    assert good.reply.has_content()
