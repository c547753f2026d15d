"""A run as the comparison reads it: its results folder, and the scenario that made it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.core.errors import UserError
from testbed.results.reading import Results, Rows, read_results, read_table
from testbed.results.schema import ArmResult, TierResult
from testbed.results.writing import RESOLVED
from testbed.scenario.loading import parse_yaml

SECTIONS = {"data": dict, "fleet": dict, "training": dict, "arms": list, "adversaries": list}


@dataclass(frozen=True)
class Run:
    """One results folder.

    Attributes
    ----------
    results : what the report reads of it.
    scenario : ``scenario.resolved.yaml``, every default filled in.
    """

    results: Results
    scenario: Mapping[str, Any]
    attacks: Rows
    devices: Rows

    @property
    def requests(self) -> Rows:
        """Rows of ``requests.parquet``."""
        return self.results.requests

    @property
    def path(self) -> Path:
        """The folder."""
        return self.results.path

    @property
    def name(self) -> str:
        """The folder's own name, which says nothing of the machine."""
        return self.path.resolve().name

    @property
    def seed(self) -> int:
        """The scenario's seed."""
        return self.results.summary.scenario.seed

    def arm_options(self, arm: str) -> dict[str, Any]:
        """Return an arm's section of the scenario.

        Raises
        ------
        UserError : the scenario beside the results has no such arm.
        """
        for section in self.scenario["arms"]:
            if isinstance(section, dict) and section.get("name") == arm:
                return section
        raise UserError(
            f"{self.path / RESOLVED}: no arm '{arm}', although results.json has it; "
            "the two are not of one run"
        )


def read_run(path: Path) -> Run:
    """Read one results folder of a complete run that mounted attacks.

    Raises
    ------
    UserError : a file is missing, damaged or of another schema version, or the run is not complete,
        or has no attack.
    """
    results = read_results(path)
    if results.summary.status != "complete":
        raise UserError(f"{path}: the run was interrupted; finish it with --resume, then compare")
    if not any(not attack.is_anchor for arm in results.arms for attack in arm.attacks):
        raise UserError(f"{path}: the run mounted no attack, there is no privacy to compare")
    return Run(
        results=results,
        scenario=_read_scenario(path / RESOLVED),
        attacks=read_table(path, "attacks"),
        devices=read_table(path, "devices"),
    )


def training_of(run: Run) -> dict[str, Any]:
    """Return the training section, without what changes no result or only its last bits."""
    training = dict(run.scenario["training"])
    for key in ("checkpoint_every_rounds", "reuse_models"):
        training.pop(key, None)
    provider = dict(training.get("provider", {}))
    provider.pop("threads", None)
    return training | {"provider": provider}


def tiers_by_name(arm: ArmResult) -> dict[str, TierResult]:
    """Return an arm's tiers by their names."""
    return {tier.tier: tier for tier in arm.tiers}


def _read_scenario(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: missing; it says whether runs may be compared") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    tree = parse_yaml(text, str(path))
    for section, kind in SECTIONS.items():
        if not isinstance(tree, dict) or not isinstance(tree.get(section), kind):
            raise UserError(f"{path}: not the scenario of a run (no section '{section}')")
    return dict(tree)
