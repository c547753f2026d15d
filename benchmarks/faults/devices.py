"""Devices that misbehave, for a run in one process: their replies are spoilt as they leave.

``python -m faults.devices ARGUMENTS`` is ``python -m testbed.run ARGUMENTS`` with such devices.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord

from clients import edge
from testbed.engine.hosts.host import device_of
from testbed.wire import protocol

TOO_MUCH_BYTES = 1 << 24


@dataclass(frozen=True)
class BadDevice:
    """One device of the fleet and what is wrong with it.

    Attributes
    ----------
    kind : description of the fault.
    handler : the handler of the ClientApp whose replies are changed.
    change : changes a reply, or raises.
    said : text of the report about it, beside its number; empty if it is only counted.
    """

    device: int
    kind: str
    handler: str
    change: Callable[[Message], None]
    said: str = ""

    @property
    def spoils_training(self) -> bool:
        """Whether the fault affects training."""
        return self.handler != "_infer"

    @property
    def spoils_serving(self) -> bool:
        """Whether requests of the device stay unanswered."""
        return self.handler == "_infer"


def _raise(reply: Message) -> None:
    raise RuntimeError("the camera is gone")


def _each_array(record_key: str, change: Callable[[Any], Any]) -> Callable[[Message], None]:
    """Return a function that changes all arrays of a record, if the reply has one."""

    def spoilt(reply: Message) -> None:
        if record_key in reply.content:
            record = reply.content.array_records[record_key]
            arrays = {name: Array(change(array.numpy())) for name, array in record.items()}
            reply.content[record_key] = ArrayRecord(arrays)

    return spoilt


def _add_bulk(reply: Message) -> None:
    bulk = np.zeros(TOO_MUCH_BYTES, dtype=np.uint8)
    reply.content["bulk"] = ArrayRecord({"bulk": Array(bulk)})


def _lose_metrics(reply: Message) -> None:
    reply.content[protocol.METRICS] = MetricRecord({protocol.NUM_EXAMPLES: [1, 2]})


def _not_a_number(values: Any) -> Any:
    return values * np.float32("nan")


BAD_DEVICES = (
    BadDevice(0, "its handler raises an exception", "_backward", _raise, "the camera is gone"),
    BadDevice(
        1, "its new front-end is NaN", "_backward", _each_array(protocol.ARRAYS, _not_a_number)
    ),
    BadDevice(
        2,
        "its features have another shape",
        "_forward",
        _each_array(protocol.FEATURES, lambda values: values.reshape(len(values), -1)),
    ),
    BadDevice(3, "its reply is far too large", "_forward", _add_bulk, "a reply of"),
    BadDevice(4, "its metrics are missing", "_backward", _lose_metrics),
    BadDevice(
        5,
        "its features are NaN when asked",
        "_infer",
        _each_array(protocol.FEATURES, _not_a_number),
    ),
    BadDevice(6, "its handler raises when asked", "_infer", _raise, "the camera is gone"),
)


def spoil(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Install the faults of the bad devices in the hosts of this process."""
    for name in ("_forward", "_backward", "_infer"):
        replace(edge, name, _spoiling(getattr(edge, name), name))


def _spoiling(handler: Callable[..., Message], name: str) -> Callable[..., Message]:
    bad = {item.device: item.change for item in BAD_DEVICES if item.handler == name}

    def handle(runtime: Any, message: Message, context: Any) -> Message:
        reply = handler(runtime, message, context)
        change = bad.get(device_of(message.metadata.dst_node_id))
        if change is not None:
            change(reply)
        return reply

    return handle


if __name__ == "__main__":
    from testbed.run import main

    spoil()
    sys.exit(main())
