"""The registries of the testbed. Packages are named, not imported: imports point one way."""

from typing import TYPE_CHECKING, Any

from testbed.core.registry import Registry

if TYPE_CHECKING:
    from clients.defences.base import Defence
    from clients.front_ends.base import FrontEnd
    from server.cloud_models.base import CloudModel
    from testbed.adversaries.base import Attack
    from testbed.data.images import ImagePool
    from testbed.fleet.availability import Availability

FRONT_ENDS: "Registry[FrontEnd]" = Registry("front-end", "clients.front_ends")
DEFENCES: "Registry[Defence]" = Registry("defence", "clients.defences")
CLOUD_MODELS: "Registry[CloudModel]" = Registry("cloud model", "server.cloud_models")
ATTACKS: "Registry[Attack]" = Registry("attack", "testbed.adversaries")
DATASETS: "Registry[ImagePool]" = Registry("dataset", "testbed.data")
PARTITIONERS: "Registry[Any]" = Registry("partitioner", "testbed.data")
AVAILABILITIES: "Registry[Availability]" = Registry("availability model", "testbed.fleet")
STRATEGIES: "Registry[Any]" = Registry("strategy", "server")

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
