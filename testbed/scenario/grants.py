"""What an attack was granted, as data: results compare threat models by it (docs/results.md)."""

from typing import Any

from testbed.scenario.adversary import Knowledge, ThreatModel


def grants(
    threat: ThreatModel, knowledge: Knowledge, holds_weights: bool, auxiliary_images: int
) -> dict[str, Any]:
    """Return what an attack used beside its intercepts, not all that its adversary holds.

    Whoever is granted as much can mount it. Its conduct is not among the grants, for it follows
    from them: whoever steers deviates from the protocol, whoever queries without the weights or
    asks for replays is active, and everybody else only reads.

    Parameters
    ----------
    holds_weights : whether it asks a copy of its own, as often as it likes.
    auxiliary_images : how many images it held.
    """
    asks_a_copy = threat.weights or (threat.queries and holds_weights)
    foreign = knowledge.auxiliary_data
    return {
        "weights": threat.weights,
        "queries": asks_a_copy or (threat.queries and knowledge.queries),
        "replays": knowledge.replays if threat.reads_features else 1,
        "auxiliary_data": foreign.name if foreign is not None else None,
        "auxiliary_classes": knowledge.auxiliary_classes,
        "auxiliary_images": auxiliary_images,
        "labels": threat.labels,
        "answers": threat.answers,
        "architecture": threat.architecture,
        "watches_training": threat.watches_training,
        "steers_training": threat.steers_training,
    }
