"""The registries of the testbed. Packages are named, not imported: imports point one way."""

from typing import Any

from testbed.core.registry import Registry

FRONT_ENDS: Registry[Any] = Registry("front-end", "clients.front_ends")
DEFENCES: Registry[Any] = Registry("defence", "clients.defences")
CLOUD_MODELS: Registry[Any] = Registry("cloud model", "server.cloud_models")
ATTACKS: Registry[Any] = Registry("attack", "testbed.adversaries")
DATASETS: Registry[Any] = Registry("dataset", "testbed.data")
PARTITIONERS: Registry[Any] = Registry("partitioner", "testbed.data")
AVAILABILITIES: Registry[Any] = Registry("availability model", "testbed.fleet")
STRATEGIES: Registry[Any] = Registry("strategy", "server")

ALL: dict[str, Registry[Any]] = {
    "datasets": DATASETS,
    "partitioners": PARTITIONERS,
    "front-ends": FRONT_ENDS,
    "cloud models": CLOUD_MODELS,
    "defences": DEFENCES,
    "attacks": ATTACKS,
    "availability models": AVAILABILITIES,
    "strategies": STRATEGIES,
}
