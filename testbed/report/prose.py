"""The sentences of the report that depend on the results."""

from dataclasses import dataclass

from testbed.report.tables.hijacks import hijack_words
from testbed.report.tables.tiers import tier_words
from testbed.results import formats as numbers
from testbed.results.findings import (
    FEW_VICTIMS,
    anchors,
    best_attack,
    chance,
    mse,
    position_words,
    readable,
)
from testbed.results.reading import Results
from testbed.results.schema import ArmResult, Interval, Serving, Summary


@dataclass(frozen=True)
class AdversaryFacts:
    """An adversary as the report introduces it."""

    name: str
    position: str
    threat_models: list[tuple[str, list[str]]]
    victims: str


def adversary_facts(summary: Summary, name: str) -> AdversaryFacts:
    """Return where an adversary reads, what each of its attacks is granted, and its victims."""
    attacks = [a for arm in summary.arms for a in arm.attacks if a.adversary == name]
    models: dict[str, list[str]] = {}
    for attack in attacks:
        names = models.setdefault(attack.threat_model, [])
        if readable(attack.attack) not in names:
            names.append(readable(attack.attack))
    counts = [a.victims for a in attacks if a.victims is not None]
    low, high = (min(counts), max(counts)) if counts else (None, None)
    victims = f"{numbers.count(low)} victims"
    if low != high:
        victims = f"{numbers.count(low)} to {numbers.count(high)} victims, depending on the arm"
    return AdversaryFacts(name, position_words(attacks[0].position), list(models.items()), victims)


def in_short(results: Results) -> list[tuple[str, str]]:
    """Return one sentence per arm, as (name, rest of the sentence)."""
    data = results.summary.data
    majority = data.majority_class_accuracy if data else None
    return [(arm.name, _arm_sentence(arm, results.arms, majority)) for arm in results.arms]


def _arm_sentence(arm: ArmResult, arms: list[ArmResult], majority: float | None) -> str:
    parts, first = [], arms[0]
    test = arm.accuracy.test if arm.accuracy else None
    if test and test.value is not None:
        parts.append(_accuracy_words(test, majority))
    if hijacked := hijack_words(arm, arms):
        parts.append(hijacked)
    if arm.edge and arm.edge.macs is not None:
        cost = f"needs {numbers.scaled(arm.edge.macs)} multiply-accumulates at the device"
        if arm is not first and first.edge:
            ratio = numbers.times(arm.edge.macs, first.edge.macs)
            cost += f" ({_than(ratio, first.name)})" if ratio else ""
        parts.append(cost)
    if arm.serving and arm.serving.offloaded_raw:
        parts.append(_raw_words(arm.serving))
    best = best_attack(arm)
    if best is not None:
        parts.append(_attack_words(arm, first))
    if tiers := tier_words(arm):
        parts.append(tiers)
    if not parts:
        return "was not evaluated before the run ended."
    text = parts[0] if len(parts) == 1 else f"{'; '.join(parts[:-1])}; and {parts[-1]}"
    return f"{text}."


def _accuracy_words(test: Interval, majority: float | None) -> str:
    text = f"classifies {numbers.percent(test.value)} of the victims' images correctly"
    if majority is not None and test.low is not None and test.low <= majority:
        text += ", not shown to be better than always answering the most frequent class"
    return text


def _raw_words(serving: Serving) -> str:
    return (
        f"{numbers.count(serving.offloaded_raw)} of {numbers.count(serving.answered)} answered "
        "requests were sent as raw images, by devices that the front-end does not fit, and are "
        "fully exposed"
    )


def _than(ratio: str, name: str) -> str:
    return f"as many as {name}" if ratio == "equal" else f"{ratio} than {name}"


def _attack_words(arm: ArmResult, first: ArmResult) -> str:
    best = best_attack(arm)
    if best is None:
        return ""
    error = mse(best)
    text = (
        f"the best attack on it ({readable(best.attack)}, {best.adversary}) reconstructs at an "
        f"MSE of {numbers.significant(error, 2)}"
    )
    compared = [
        f"{readable(anchor.attack)} {numbers.significant(mse(anchor), 2)}"
        for anchor in anchors(arm, best.adversary)
        if mse(anchor) is not None
    ]
    reference = best_attack(first)
    if arm is not first and reference is not None:
        compared.insert(0, f"{first.name} {numbers.significant(mse(reference), 2)}")
    if compared:
        text += f" ({', '.join(compared)})"
    rate = best.scores.reidentification.value
    if rate is not None:
        text += f" and re-identifies {numbers.percent(rate)}"
        text += f", where chance is {numbers.percent(chance(best))}" if chance(best) else ""
    if best.worse_than_mean_image:
        text += "; it is worse than the mean image, so it failed, which is not privacy"
    return text


def limits(summary: Summary) -> list[str]:
    """Return what the figures do not show, said plainly."""
    said = [
        "A score is what these attacks achieved, with their data, size and training; a stronger "
        "attack can only do better. An attack that failed shows nothing about the next one.",
        "A front-end that adds no randomness (undefended, SiftFunnel and other deterministic "
        "ones) gives no guarantee, unless there are directions of the image that its features "
        "never respond to: these alone give it a bound above 0. The table of threat models says "
        "for every arm whether its bound was computed, and what it is. Any other bound that holds "
        "for every attacker needs a defence that adds noise.",
    ]
    if any(arm.serving and arm.serving.offloaded_raw for arm in summary.arms):
        said.append(
            "Requests sent as raw images are left out of every attack's scores: whoever reads "
            "them needs no attack, the reconstruction is the image itself. Scores therefore "
            "speak of the other requests only; the tables give the number sent raw for every "
            "device class."
        )
    victims = [
        entry.victims
        for arm in summary.arms
        for attack in arm.attacks
        for entry in attack.by_device_class
        if entry.victims is not None
    ]
    if victims and min(victims) < FEW_VICTIMS:
        said.append(
            f"The smallest device class has {min(victims)} victims. Below {FEW_VICTIMS} victims "
            "bootstrap intervals are too narrow as a rule; read such rows as anecdotes."
        )
    said += [
        "One run is one seed: intervals cover the choice of victims, not the chance in training. "
        "A claim about a defence needs at least three seeds.",
        "Latency and energy are modelled, not measured on the devices. Median errors to expect "
        "of the compute model: about 16 % on application CPUs, 20 % on GPUs and 14 % on "
        "microcontrollers; single models can be off by far more. Where no power figure is "
        "published, energy is unknown and left out of means. What a cellular radio draws while it "
        "stays awake was measured on a phone of 2012; newer ones may draw less.",
    ]
    channels = summary.data.image_shape[0] if summary.data and summary.data.image_shape else None
    if channels == 3:
        said.append(
            "MSE is the mean over every element. Published SiftFunnel figures sum over the three "
            "colour channels and are therefore 3 times larger for the same reconstruction."
        )
    return said
