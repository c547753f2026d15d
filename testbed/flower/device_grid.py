"""A Grid that identifies Flower's nodes by the devices of a fleet.

Flower gives nodes random ids. The cohort of a round and the order of every sum depend on the ids.
Here a node's id follows from its device (``partition-id``), as on the testbed's own Grid.
"""

import time
from collections.abc import Callable, Iterable, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from testbed.core.errors import UserError
from testbed.engine.hosts.host import device_of, node_of
from testbed.engine.network.grid import MessageGrid
from testbed.wire import protocol

POLL_S = 0.2


class DeviceGrid(MessageGrid):
    """A Grid whose node ids are those of devices; messages go out over another Grid.

    Parameters
    ----------
    grid : Flower's own.
    nodes : its node id of every device.
    timeout_s : longest wait for the replies of one exchange, in real time.
    """

    def __init__(self, grid: Grid, nodes: Mapping[int, int], timeout_s: float) -> None:
        self._grid = grid
        self._nodes = dict(nodes)
        self._devices = {node: device for device, node in nodes.items()}
        self._timeout_s = timeout_s

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """Return the run."""
        return self._grid.run

    def get_node_ids(self) -> list[int]:
        """Return the node ids in the order of the devices."""
        return [node_of(device) for device in sorted(self._nodes)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages to the devices' nodes."""
        return list(self._grid.push_messages([self._outward(message) for message in messages]))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have arrived."""
        return [self._inward(reply) for reply in self._grid.pull_messages(message_ids)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and return the replies that arrive in time."""
        replies = self._grid.send_and_receive(
            [self._outward(message) for message in messages],
            timeout=self._timeout_s if timeout is None else timeout,
        )
        return [self._inward(reply) for reply in replies]

    def _outward(self, message: Message) -> Message:
        metadata = message.metadata
        node = self._nodes[device_of(metadata.dst_node_id)]
        return Message(
            message.content,
            node,
            metadata.message_type,
            ttl=metadata.ttl,
            group_id=metadata.group_id,
        )

    def _inward(self, reply: Message) -> Message:
        device = self._devices[reply.metadata.src_node_id]
        reply.metadata.__dict__["_src_node_id"] = node_of(device)
        return reply


def find_devices(
    grid: Grid,
    devices: int,
    wanted: int,
    wait_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> dict[int, int]:
    """Wait for nodes and return their ids by device.

    Parameters
    ----------
    devices : size of the scenario's fleet; a node's ``partition-id`` is below it.
    wanted : nodes to wait for.
    wait_s : longest wait for them, and again for their answers.

    Raises
    ------
    UserError : too few nodes, a node without a valid device, or two with the same device.
    """
    due = clock() + wait_s
    while len(nodes := list(grid.get_node_ids())) < wanted:
        if clock() >= due:
            raise UserError(
                f"{len(nodes)} of {wanted} nodes connected within {wait_s:g} s; start more "
                "SuperNodes (in a simulation: --federation-config num-supernodes=N), or set the "
                "run-config's nodes or the scenario's fleet.size"
            )
        time.sleep(POLL_S)
    asked = [Message(RecordDict(), node, protocol.IDENTIFY) for node in nodes]
    node_of_device: dict[int, int] = {}
    for reply in grid.send_and_receive(asked, timeout=wait_s):
        node = reply.metadata.src_node_id
        if not reply.has_content():
            raise UserError(
                f"node {node} does not say which device it is ({reply.error.reason}); start it "
                "with --node-config partition-id=K"
            )
        device = reply.content.metric_records[protocol.METRICS][protocol.DEVICE]
        if not isinstance(device, int) or not 0 <= device < devices:
            raise UserError(f"node {node}: partition-id {device} is not below fleet.size {devices}")
        if device in node_of_device:
            raise UserError(
                f"nodes {node_of_device[device]} and {node} both have partition-id {device}"
            )
        node_of_device[device] = node
    if len(node_of_device) < wanted:
        raise UserError(f"{len(node_of_device)} of {wanted} nodes answered within {wait_s:g} s")
    return node_of_device
