"""Arms of several runs, those that are the same joined into one arm with several seeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.compare.analysis.runs import Run, training_of
from testbed.core.errors import UserError
from testbed.core.registry import nearest
from testbed.results.schema import ArmResult

NO_DEFENCE = "none"
UNDEFENDED = "undefended"
"""Family of the arms without a defence: in a sentence, 'none' would say that there is no family."""


@dataclass(frozen=True)
class Member:
    """An arm as one run, hence one seed, measured it."""

    run: Run
    arm: ArmResult


@dataclass(frozen=True)
class ComparedArm:
    """An arm over its seeds.

    Attributes
    ----------
    label : its name; a run's name follows where two different arms have the same name.
    family : the defence, at all strengths and front-ends.
    members : one per seed, by seed.
    """

    label: str
    family: str
    members: tuple[Member, ...]

    @property
    def first(self) -> ArmResult:
        """The arm of the first seed, for what all seeds share."""
        return self.members[0].arm

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return [member.run.seed for member in self.members]


def arms_of(runs: Sequence[Run]) -> list[ComparedArm]:
    """Group the arms of all runs; the order is that of their first appearance.

    Arms are the same if name, front-end, defence, precision, cloud model, tiers and training are.

    Raises
    ------
    UserError : the same arm was run twice with one seed.
    """
    groups: dict[str, list[Member]] = {}
    for run in runs:
        for arm in run.results.arms:
            members = groups.setdefault(_identity(run, arm), [])
            for member in members:
                if member.run.seed == run.seed:
                    raise UserError(
                        f"the arm '{arm.name}' with seed {run.seed} is in {member.run.path} and "
                        f"in {run.path}; give each seed of an arm once"
                    )
            members.append(Member(run, arm))
    labels = _labels([members[0] for members in groups.values()])
    return [
        ComparedArm(
            label,
            family_of(members[0].run.arm_options(members[0].arm.name).get("defence")),
            tuple(sorted(members, key=lambda member: member.run.seed)),
        )
        for label, members in zip(labels, groups.values(), strict=True)
    ]


def find_reference(arms: Sequence[ComparedArm], wanted: str | None) -> ComparedArm:
    """Return the arm named, or the first without a defence.

    Raises
    ------
    UserError : there is no such arm, or none is undefended and none was named.
    """
    labels = [arm.label for arm in arms]
    if wanted is not None:
        if wanted in labels:
            return arms[labels.index(wanted)]
        raise UserError(
            f"--reference {wanted}: no such arm{nearest(wanted, labels)}; arms: {', '.join(labels)}"
        )
    for arm in arms:
        if arm.family == UNDEFENDED:
            return arm
    raise UserError(
        f"no arm is undefended; name the one to compare with by --reference: {', '.join(labels)}"
    )


def family_of(defence: Any) -> str:
    """Return the name of a defence, with that of the defence underneath where it has one."""
    name, under = str(defence or NO_DEFENCE), None
    if isinstance(defence, Mapping):
        name, under = str(defence.get("name", NO_DEFENCE)), defence.get("base")
    if name == NO_DEFENCE:
        return UNDEFENDED
    below = UNDEFENDED if under is None else family_of(under)
    return name if below == UNDEFENDED else f"{name} on {below}"


def _identity(run: Run, arm: ArmResult) -> str:
    """Return what makes an arm the same in two runs, as text."""
    assignments = [
        {key: value for key, value in item.items() if key != "arms"}
        for item in run.scenario["fleet"].get("assignments") or []
        if item.get("arms") is None or arm.name in item["arms"]
    ]
    return json.dumps(
        [
            arm.name,
            arm.front_end,
            arm.defence,
            arm.precision,
            arm.cloud_model,
            assignments,
            training_of(run),
        ],
        sort_keys=True,
        default=str,
    )


def _labels(firsts: Sequence[Member]) -> list[str]:
    names = [member.arm.name for member in firsts]
    labels: list[str] = []
    for member, name in zip(firsts, names, strict=True):
        label = name if names.count(name) == 1 else f"{name}@{member.run.name}"
        number = 2
        unique = label
        while unique in labels:
            unique, number = f"{label}-{number}", number + 1
        labels.append(unique)
    return labels
