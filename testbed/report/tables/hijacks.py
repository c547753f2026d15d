"""The table of arms whose cloud manipulated the training: its cost, and what gives it away."""

from testbed.pages.cells import Row, Table, number, words
from testbed.results import formats as numbers
from testbed.results.findings import accuracy, readable
from testbed.results.reading import Results
from testbed.results.schema import MEAN_IMAGE, ArmResult, Hijack

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
    errors = {a.attack: a.mse for a in arm.attacks if a.adversary == hijack.adversary}
    beside = honest.name if honest else "no honest arm to compare"
    return Row(
        arm.name,
        [
            words(readable(hijack.attack), hijack.adversary),
            number(accuracy(arm).value, numbers.percent),
            number(accuracy(honest).value, numbers.percent, beside),
            number(errors.get(hijack.attack), numbers.significant),
            number(errors.get(MEAN_IMAGE), numbers.significant),
            number(hijack.label_gap_sent, numbers.significant),
            number(hijack.label_gap_honest, numbers.significant),
        ],
    )
