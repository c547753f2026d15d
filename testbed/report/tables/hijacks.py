"""What the report says of arms whose cloud steered the training: the cost, and what shows it."""

from testbed.pages.cells import Row, Table, number, words
from testbed.results import formats as numbers
from testbed.results.findings import mse, readable
from testbed.results.reading import Results
from testbed.results.schema import ArmResult, Hijack

HEADINGS = (
    "arm",
    "its cloud",
    "accuracy",
    "honest arm's",
    "MSE of what it decodes",
    "mean image",
    "label gap sent",
    "honest",
)


def hijack_table(results: Results) -> Table | None:
    """Return one row per hijacked arm, beside the honest arm of the same front-end and defence."""
    arms = {arm.name: arm for arm in results.arms}
    rows = [
        _row(arm, arm.hijack, arms.get(arm.hijack.honest_arm or ""))
        for arm in results.arms
        if arm.hijack is not None
    ]
    return Table(list(HEADINGS), rows) if rows else None


def _row(arm: ArmResult, hijack: Hijack, honest: ArmResult | None) -> Row:
    own = [attack for attack in arm.attacks if attack.adversary == hijack.adversary]
    decoded = next((mse(attack) for attack in own if attack.attack == hijack.attack), None)
    mean = next((mse(attack) for attack in own if attack.attack == "mean_image"), None)
    beside = honest.name if honest else "no honest arm is alike"
    return Row(
        arm.name,
        [
            words(readable(hijack.attack), hijack.adversary),
            number(_accuracy(arm), numbers.percent),
            number(_accuracy(honest), numbers.percent, beside),
            number(decoded, numbers.significant),
            number(mean, numbers.significant),
            number(hijack.label_gap_sent, numbers.significant),
            number(hijack.label_gap_honest, numbers.significant),
        ],
    )


def _accuracy(arm: ArmResult | None) -> float | None:
    test = arm.accuracy.test if arm and arm.accuracy else None
    return test.value if test else None


def hijack_words(arm: ArmResult, arms: list[ArmResult]) -> str:
    """Return what the malicious cloud cost an arm, as a part of its sentence; else nothing."""
    hijack = arm.hijack
    if hijack is None:
        return ""
    text = f"its cloud is malicious ({readable(hijack.attack)}, {hijack.adversary})"
    honest = next((other for other in arms if other.name == hijack.honest_arm), None)
    own, theirs = _accuracy(arm), _accuracy(honest)
    if honest is not None and own is not None and theirs is not None:
        text += f", against {numbers.percent(theirs)} right with an honest one ({honest.name})"
    return text
