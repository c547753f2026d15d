"""Flower's aggregation strategies by name, with the options of their own constructors."""

import inspect
import itertools
from typing import Any

from flwr.serverapp import strategy as flower
from pydantic import create_model

from testbed.core.registries import STRATEGIES
from testbed.core.registry import Options

# The testbed chooses the cohort itself, and names the records (testbed.wire.protocol).
_CHOSEN_HERE = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
}
_PLAIN_TYPES = (bool, int, float, str)


def _options_of(strategy: type[flower.FedAvg]) -> type[Options]:
    """Build an options class from the constructor's plain arguments with defaults."""
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(strategy.__init__).parameters.items():
        default = parameter.default
        if name in _CHOSEN_HERE or name.endswith("_key") or not isinstance(default, _PLAIN_TYPES):
            continue
        fields[name] = (type(default), default)
    return create_model(f"{strategy.__name__}Options", __base__=Options, **fields)


def _register(strategy: type[flower.FedAvg]) -> None:
    accepted = inspect.signature(strategy.__init__).parameters
    fixed: dict[str, Any] = {
        name: value for name, value in _CHOSEN_HERE.items() if name in accepted
    }
    summary = (inspect.getdoc(strategy) or strategy.__name__).splitlines()[0].rstrip(".")

    @STRATEGIES.register(strategy.__name__.lower(), summary, _options_of(strategy))
    def build(options: Options) -> flower.Strategy:
        return strategy(**fixed, **options.model_dump())


def _required(strategy: type[flower.FedAvg]) -> list[str]:
    return [
        name
        for name, parameter in inspect.signature(strategy.__init__).parameters.items()
        if parameter.default is inspect.Parameter.empty and name != "self"
    ]


def fewest_replies(strategy: flower.Strategy) -> int:
    """Return how many replies a strategy needs to do what its options promise.

    Bulyan needs 4m + 3 replies against m malicious ones, Krum 2m + 3, and Multi-Krum also m more
    than it selects. A trimmed mean of fewer than 1 / beta replies trims none. Flower's own classes
    skip the first silently, and aggregate the others as if nothing was malicious.
    """
    if isinstance(strategy, flower.Bulyan):
        return 4 * strategy.num_malicious_nodes + 3
    if isinstance(strategy, flower.MultiKrum) and strategy.num_malicious_nodes:
        malicious = strategy.num_malicious_nodes
        return max(2 * malicious + 3, strategy.num_nodes_to_select + malicious)
    if isinstance(strategy, flower.FedTrimmedAvg) and strategy.beta:
        return next(n for n in itertools.count(1) if int(strategy.beta * n))
    return 1


def averages(strategy: flower.Strategy) -> bool:
    """Return whether all that a strategy reads of the devices' arrays is their weighted mean.

    FedAvg does, and so do FedAvgM and FedOpt, which optimise the parameters further from there.
    Any other implementation of ``aggregate_train`` may read the arrays of every device.
    """
    if not isinstance(strategy, flower.FedAvg) or "aggregate_train" in vars(strategy):
        return False
    owner = next(kind for kind in type(strategy).__mro__ if "aggregate_train" in vars(kind))
    of_flower = owner.__module__.startswith(flower.__name__ + ".")
    return of_flower and (
        owner in (flower.FedAvg, flower.FedAvgM) or issubclass(owner, flower.fedopt.FedOpt)
    )


for _name in sorted(flower.__all__):
    _strategy = getattr(flower, _name)
    # The tree-boosting strategies aggregate boosters, not arrays; q-FedAvg needs each device's loss
    # before training, which only the cloud could compute here.
    if (
        inspect.isclass(_strategy)
        and issubclass(_strategy, flower.FedAvg)
        and "Xgb" not in _name
        and _strategy is not flower.QFedAvg
        and not _required(_strategy)
    ):
        _register(_strategy)
