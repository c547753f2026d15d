"""The four tables of a results folder: every column declared once, with its type and its meaning.

The declarations give the parquet schemas that are written, the columns and types that are read, and
the tables of columns in docs/results.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from testbed.results.figures import SCORE_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

Record = dict[str, Any]
"""One row of a table, by column."""

TableName = Literal["rounds", "devices", "requests", "attacks"]
Type = Literal["text", "flag", "count", "number"]


@dataclass(frozen=True)
class Column:
    """One column of a table; every column may hold nulls, for unknown or not applicable.

    Attributes
    ----------
    note : its meaning, in Markdown.
    """

    name: str
    type: Type
    note: str = ""


_ARM = Column("arm", "text", "name of the arm")
_DEVICE = Column("device", "count", "number of the device, from 0")
_DEVICE_CLASS = Column("device_class", "text", "class of the device in the catalogue")
_TIER = Column("tier", "text", "tier of the device; `own` where the scenario assigns none")
_REQUEST = Column("request", "count", "number of the request, the same in every arm")
_VICTIM = Column("victim", "count", "number of the image in the order drawn by the seed")
_LABEL = Column("label", "count", "true class")

TABLES: Mapping[TableName, tuple[Column, ...]] = {
    "rounds": (
        _ARM,
        Column("protocol", "text", "`split_federated`; `provider` for an epoch at the provider"),
        Column("round", "count", "from 1; rounds of fine-tuning count on after the epochs"),
        Column("virtual_s", "number", "virtual time at the end of the round; 0 at the provider"),
        Column("training_loss", "number", "mean task loss over the steps of the round"),
        Column("penalty", "number", "mean of the loss term that the defence adds on the device"),
        Column("training_accuracy", "number", "mean over the steps of the round"),
        Column("validation_loss", "number", "null where the round was not evaluated"),
        Column("validation_accuracy", "number", "null where the round was not evaluated"),
        Column("cohort", "count", "devices asked to take part"),
        Column("participants", "count", "devices whose updates were averaged"),
        Column("stragglers", "count", "devices that missed the deadline of the round"),
        Column("offline", "count", "devices that were not available"),
        Column("failed", "count", "replies that were errors or were rejected"),
        Column("unused", "count", "unused: too few updates for `training.strategy`"),
        Column("uplink_bytes", "count", "from all devices; in round 1 also their enrolment"),
        Column("downlink_bytes", "count", "to all devices; in round 1 also their enrolment"),
    ),
    "devices": (
        _ARM,
        _DEVICE,
        _DEVICE_CLASS,
        _TIER,
        Column("model", "text", "name of the device in the catalogue"),
        Column("link", "text", "type of its link"),
        Column("uplink_mbit_s", "number"),
        Column("downlink_mbit_s", "number"),
        Column("rtt_ms", "number", "round-trip time"),
        Column("ram_mb", "number"),
        Column("training_images", "count", "images that the device holds"),
        Column("training_feasible", "flag", "whether training fits its memory"),
        Column("serving_feasible", "flag", "whether inference fits its memory"),
        Column("edge_inference_ms", "number", "modelled, for one image: front-end and release"),
        Column("participations", "count", "rounds completed before the deadline"),
        Column("stragglers", "count", "rounds whose deadline it missed"),
        Column("offline", "count", "rounds for which it was not available"),
        Column("failed", "count", "replies that were errors, in training and serving"),
        Column("train_uplink_bytes", "count", "of its rounds and of its enrolment"),
        Column("train_downlink_bytes", "count", "of its rounds and of its enrolment"),
        Column("train_compute_ms", "number", "passes, release, penalty, adversary and optimiser"),
        Column("train_transfer_ms", "number", "both directions, with the radio waking up"),
        Column("train_energy_mj", "number", "above idle; null where a power is unknown"),
        Column("train_wake_tail_mj", "number", "the part of it for the radio's wake-ups and tails"),
        Column("train_round_ms", "number", "from a round's first message to its own last reply"),
        Column("train_idle_mj", "number", "idle power in `train_round_ms`; not in the energy"),
        Column("serve_uplink_bytes", "count", "of its requests and of the deployment"),
        Column("serve_downlink_bytes", "count", "of its requests and of the deployment"),
        Column("serve_compute_ms", "number", "the front-end, release and encoding"),
        Column("serve_transfer_ms", "number", "both directions, with the radio waking up"),
        Column("serve_energy_mj", "number", "above idle; null where a power is unknown"),
        Column("serve_wake_tail_mj", "number", "the part of it for the radio's wake-ups and tails"),
        Column("requests", "count", "requests that arrived at the device"),
        Column("correct", "count", "requests that were answered correctly"),
    ),
    "requests": (
        _ARM,
        _REQUEST,
        _DEVICE,
        _DEVICE_CLASS,
        _VICTIM,
        _LABEL,
        Column("answer", "count", "class that was answered; -1 without an answer"),
        Column("correct", "flag"),
        Column("status", "text", "`answered`, `offline`, `infeasible` or `failed`"),
        Column("raw", "flag", "whether the image itself was sent: the front-end does not fit"),
        Column("arrival_s", "number", "virtual time at which the request arrived at the device"),
        Column("compute_ms", "number", "on the device: front-end, release and encoding"),
        Column("uplink_ms", "number", "sending, with the radio waking up"),
        Column("wake_ms", "number", "the radio waking up for the request and for its answer"),
        Column("queue_ms", "number", "all waiting: for the device, its link, the cloud, a batch"),
        Column("cloud_ms", "number", "service of the batch of the request"),
        Column("downlink_ms", "number", "receiving, with the radio waking up"),
        Column("latency_ms", "number", "sum of compute, uplink, queue, cloud and downlink"),
        Column("batch_size", "count", "requests in the batch of the request"),
        Column("cloud_share_ms", "number", "the request's share of `cloud_ms`"),
        Column("energy_mj", "number", "above idle, on the device; null where a power is unknown"),
        Column("wake_tail_mj", "number", "the part of it for the radio waking up, staying awake"),
        Column("uplink_bytes", "count", "features or image; the acknowledgement of the answer"),
        Column("downlink_bytes", "count", "the answer"),
    ),
    "attacks": (
        _ARM,
        Column("adversary", "text", "name of the adversary"),
        Column("attack", "text", "name of the attack, or of an anchor"),
        _REQUEST,
        _VICTIM,
        _DEVICE,
        _DEVICE_CLASS,
        _TIER,
        _LABEL,
        *(
            Column(name, "flag" if score.flag else "number", score.note)
            for name, score in SCORE_COLUMNS.items()
        ),
    ),
}


def arrow_schema(table: TableName) -> "pa.Schema":
    """Return the parquet schema of a table."""
    import pyarrow as pa  # slow to import

    types: Mapping[Type, pa.DataType] = {
        "text": pa.string(),
        "flag": pa.bool_(),
        "count": pa.int64(),
        "number": pa.float64(),
    }
    return pa.schema([(column.name, types[column.type]) for column in TABLES[table]])
