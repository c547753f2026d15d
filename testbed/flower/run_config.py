"""The scenario and arm of a Flower run, from its ``run_config``."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from clients.device_spec import DeviceSpec
from testbed.core.errors import UserError
from testbed.core.project import PROJECT_ROOT
from testbed.core.registry import nearest
from testbed.engine.setting.models import ArmModels, arm_models
from testbed.engine.setting.run_context import RunInputs, read_run_inputs
from testbed.scenario.loading import load_scenario
from testbed.scenario.schema import Arm, Scenario

SEPARATOR = ";"


@dataclass(frozen=True)
class RunConfig:
    """The keys of ``[tool.flwr.app.config]``.

    Attributes
    ----------
    scenario : a scenario file, relative to the working directory or to the project.
    arm : an arm of it by name; empty: the first.
    overrides : ``KEY.PATH=VALUE`` texts, separated by semicolons.
    nodes : SuperNodes to wait for; 0: one per device of the scenario's fleet.
    wait_s : longest wait for them, and for the replies of one exchange.
    out : folder for the trained weights, relative to the working directory; empty: nowhere.
    """

    scenario: str = "scenarios/smoke.yaml"
    arm: str = ""
    overrides: str = ""
    nodes: int = 0
    wait_s: float = 600.0
    out: str = ""

    @classmethod
    def of(cls, run_config: Mapping[str, Any]) -> "RunConfig":
        """Return the configuration of a Flower context.

        Raises
        ------
        UserError : a value has the wrong type.
        """
        given: dict[str, Any] = {}
        for name, default in vars(cls()).items():
            key = name.replace("_", "-")
            value = run_config.get(key, default)
            kinds = (int, float) if isinstance(default, float) else (type(default),)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise UserError(
                    f"run-config: {key}: give a {type(default).__name__}, got {value!r}"
                )
            given[name] = value
        return cls(**given)


class ChosenArm:
    """One arm of a scenario, with its data and its untrained halves."""

    def __init__(self, config: RunConfig) -> None:
        texts = [text.strip() for text in config.overrides.split(SEPARATOR) if text.strip()]
        self.scenario: Scenario = load_scenario(_found(config.scenario), texts)
        self.arm = _arm(self.scenario, config.arm)
        self.inputs: RunInputs = read_run_inputs(self.scenario)

    def new_models(self) -> ArmModels:
        """Build new halves with initial weights.

        Raises
        ------
        UserError : the front-end does not work with this data or defence.
        """
        return arm_models(self.inputs, self.arm)

    @cached_property
    def device_specs(self) -> list[DeviceSpec]:
        """The devices' specifications, one per tier."""
        return [tier.device_spec for tier in self.new_models().tiers]


@lru_cache(maxsize=2)
def chosen_arm(config: RunConfig) -> ChosenArm:
    """Return the arm of a configuration, read once per process.

    Raises
    ------
    UserError : the scenario, the arm or the data is wrong, or does not run on Flower's runtime.
    """
    chosen = ChosenArm(config)
    if chosen.scenario.training.protocol != "split_federated":
        raise UserError(
            f"{config.scenario}: training.protocol: a provider trains before any device takes "
            "part; on Flower's own runtime give split_federated"
        )
    for adversary in chosen.scenario.adversaries:
        if adversary.attacks_training:
            raise UserError(
                f"{config.scenario}: adversaries.{adversary.name}.victims: nothing reads messages "
                "on Flower's own runtime; give 'serving' there, or use python -m testbed.run"
            )
    return chosen


def _found(name: str) -> Path:
    """Return the file below the working directory, or else below the project."""
    path = Path(name)
    inside = PROJECT_ROOT / path
    return inside if not path.exists() and inside.exists() else path


def _arm(scenario: Scenario, name: str) -> Arm:
    arms = {arm.name: arm for arm in scenario.arms}
    if not name:
        return scenario.arms[0]
    if name not in arms:
        hint = nearest(name, list(arms))
        raise UserError(f"run-config: arm: no arm '{name}'{hint}; arms: {', '.join(arms)}")
    return arms[name]
