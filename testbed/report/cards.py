"""Attack cards: what each attack was granted, what it cost, how it trained, what it made."""

from dataclasses import dataclass

from testbed.results import formats as numbers
from testbed.results.findings import mse, readable
from testbed.results.reading import Images, Results
from testbed.results.schema import ArmResult, AttackResult

SPARK_WIDTH, SPARK_HEIGHT = 180, 44


@dataclass(frozen=True)
class Card:
    """One attack of one adversary on one arm.

    Attributes
    ----------
    threat : the threat model as a sentence.
    lines : what it cost and what it achieved, one sentence each.
    curve : points of its validation error over epochs, for an SVG polyline; empty without.
    amounts : points of its error by the share of what it learned from; empty without.
    pairs : best, median and worst victim above what was made of each, or None.
    pair_labels : their errors.
    """

    title: str
    arm_index: int
    threat: str
    lines: list[str]
    curve: str
    amounts: list[str]
    pairs: Images | None
    pair_labels: str


def cards(results: Results) -> list[tuple[str, list[Card]]]:
    """Return the cards of every adversary, anchors left out, arms side by side."""
    found: dict[str, list[Card]] = {}
    for index, arm in enumerate(results.arms):
        for attack in arm.attacks:
            if not attack.is_anchor:
                card = _card(results, index, arm, attack)
                found.setdefault(attack.adversary, []).append(card)
    return list(found.items())


def _card(results: Results, index: int, arm: ArmResult, attack: AttackResult) -> Card:
    samples = results.samples.get(f"extremes/{arm.name}/{attack.adversary}/{attack.attack}")
    labels = ", ".join(
        f"{item.rank} MSE {numbers.significant(item.mse, 2)}" for item in attack.extremes
    )
    return Card(
        title=f"{readable(attack.attack)} on {arm.name}",
        arm_index=index,
        threat=" ".join(filter(None, (_conduct(attack), f"Has {attack.threat_model}."))),
        lines=[
            _cost(results, arm, attack),
            *_trained(attack),
            *_achieved(attack),
            *_by_amount(attack),
        ],
        curve=_spark(attack),
        amounts=_amounts(attack),
        pairs=samples,
        pair_labels=labels,
    )


def _conduct(attack: AttackResult) -> str:
    """Return what the attacker does beside reading, as a sentence; empty where not recorded."""
    said = {
        "passive": "Passive: it only reads.",
        "active": "Active: it asks for features, which can be noticed.",
        "malicious training": "Malicious: it deviates from the training protocol.",
    }
    return said.get(attack.conduct, "")


def _cost(results: Results, arm: ArmResult, attack: AttackResult) -> str:
    seconds = None
    for entry in results.host.attacks if results.host else []:
        if (entry.arm, entry.adversary, entry.attack) == (
            arm.name,
            attack.adversary,
            attack.attack,
        ):
            seconds = entry.cpu_s
    took = f"{numbers.duration(seconds)} of processor time" if seconds is not None else ""
    asked = f"{numbers.count(attack.queries)} images queried" if attack.queries else "no queries"
    read = f"{numbers.count(attack.victims)} intercepts"
    return "Cost: " + ", ".join(filter(None, (took, asked, read))) + "."


def _trained(attack: AttackResult) -> list[str]:
    """Say in words whether a training ended on a plateau; nothing where that is not recorded."""
    if attack.reached_plateau is None:
        return []
    if attack.reached_plateau:
        return ["Its decoder trained to its plateau."]
    # On several tiers, the first whose training was stopped speaks for them.
    stopped = next((tier for tier in attack.by_tier if tier.reached_plateau is False), attack)
    epochs = stopped.curve[-1].epoch if stopped.curve else None
    limit = f"its limit of {numbers.count(epochs)} {'epoch' if epochs == 1 else 'epochs'}"
    if stopped.best_epoch == epochs:
        return [f"Its decoder stopped at {limit}, still improving: more training would do better."]
    return [f"Its decoder stopped at {limit}, before its plateau: more training may do better."]


def _achieved(attack: AttackResult) -> list[str]:
    scores, said = attack.scores, attack.inferred
    if said is not None:
        text = (
            f"Names the class of {_share(said.class_)}, where the most frequent class makes up "
            f"{numbers.percent(said.majority_class)}"
        )
        if said.same_person is not None:
            text += (
                f"; finds another image of the same person for {_share(said.same_person)}, where "
                f"chance is {numbers.percent(said.chance_same_person)}"
            )
        return [f"{text}."]
    text = (
        f"MSE {numbers.significant(mse(attack))}, PSNR "
        f"{numbers.significant(scores.psnr_db.value)} dB; SSIM above 0.5 for "
        f"{_share(scores.recognisable_share)}"
    )
    if scores.class_recovered.value is not None:
        text += f"; a classifier names the class of {_share(scores.class_recovered)}"
        if attack.class_on_originals is not None:
            text += f" ({numbers.percent(attack.class_on_originals)} of the originals)"
    lines = [f"{text}."]
    if attack.worse_than_mean_image:
        lines.append("Worse than the mean image: the attack failed, which is not privacy.")
    return lines


def _by_amount(attack: AttackResult) -> list[str]:
    """Return the curve over amounts in words."""
    curve = attack.by_amount
    if curve is None:
        return []
    said = [
        f"{numbers.significant(point.mse.value if point.mse else None, 2)} with "
        f"{numbers.count(point.amount)}"
        for point in curve.points
    ]
    victims = f"on the same {numbers.count(curve.victims)} victims"
    return [f"By the number of {curve.unit}, {victims}: MSE {', '.join(said)}."]


def _amounts(attack: AttackResult) -> list[str]:
    """Return the curve over amounts as points of a polyline, error 0 at the bottom."""
    curve = attack.by_amount
    known = [
        (point.share, point.mse.value)
        for point in (curve.points if curve else [])
        if point.share is not None and point.mse is not None and point.mse.value is not None
    ]
    top = max((value for _, value in known), default=0.0)
    if len(known) < 2 or top <= 0.0:
        return []
    return [
        f"{SPARK_WIDTH * share:.1f},{SPARK_HEIGHT * (1.0 - value / top):.1f}"
        for share, value in known
    ]


def _share(interval: object) -> str:
    value = getattr(interval, "value", None)
    return numbers.percent(value)


def _spark(attack: AttackResult) -> str:
    """Return the validation curve as points of a polyline, errors from 0 at the bottom."""
    values = [point.validation_mse for point in attack.curve if point.validation_mse is not None]
    if len(values) < 2 or max(values) <= 0.0:
        return ""
    top = max(values)
    step = SPARK_WIDTH / (len(values) - 1)
    return " ".join(
        f"{index * step:.1f},{SPARK_HEIGHT * (1.0 - value / top):.1f}"
        for index, value in enumerate(values)
    )
