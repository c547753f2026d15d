"""Registers the partitioners of flwr-datasets, with typed options.

Each factory is called as ``factory(options, num_partitions=..., num_classes=..., seed=...)`` and
returns a ``flwr_datasets.partitioner.Partitioner`` over the columns ``label`` and ``person``.
flwr-datasets is imported inside the factories: it is slow to import.
"""

import os
from typing import Annotated, Any, Literal

from pydantic import Field

from testbed.core.registries import PARTITIONERS
from testbed.core.registry import NoOptions, Options
from testbed.core.seeds import generator

PositiveInt = Annotated[int, Field(ge=1)]


def _library() -> Any:
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from flwr_datasets import partitioner

    return partitioner


class DirichletOptions(Options):
    """``alpha``: concentration, smaller is more skewed; flwr-datasets documents the others."""

    alpha: Annotated[float, Field(gt=0.0)] = 0.5
    min_partition_size: Annotated[int, Field(ge=0)] = 0
    self_balancing: bool = False


class PathologicalOptions(Options):
    """The number of classes of a device, and how they are chosen."""

    num_classes_per_partition: PositiveInt = 2
    class_assignment_mode: Literal["random", "deterministic", "first-deterministic"] = (
        "first-deterministic"
    )


class ShardOptions(Options):
    """The number of equal shards of the images, sorted by class, that a device gets."""

    num_shards_per_partition: PositiveInt = 2


class DistributionOptions(Options):
    """Log-normal sizes over a fixed number of classes per device."""

    num_unique_labels_per_partition: PositiveInt = 2
    preassigned_num_samples_per_label: Annotated[int, Field(ge=0)] = 1
    sigma: Annotated[float, Field(gt=0.0)] = 2.0


def _register(
    name: str, library_class: str, summary: str, by_class: type[Options] | None = None
) -> None:
    """Register a partitioner; ``by_class``: options of one that looks at the images' classes."""

    @PARTITIONERS.register(name, summary, by_class or NoOptions)
    def factory(options: Options, *, num_partitions: int, num_classes: int, seed: int) -> Any:
        more = {"partition_by": "label", "seed": seed, **options.model_dump()} if by_class else {}
        partitioner = getattr(_library(), f"{library_class}Partitioner")
        return partitioner(num_partitions=num_partitions, **more)


_register("iid", "Iid", "equal numbers of images, drawn at random")
_register("linear", "Linear", "random images, sizes growing linearly over the devices")
_register("square", "Square", "random images, sizes growing quadratically over the devices")
_register("exponential", "Exponential", "random images, sizes growing exponentially (few devices)")
_register(
    *("dirichlet", "Dirichlet", "class shares drawn from Dirichlet(alpha) (arXiv 1905.12022)"),
    DirichletOptions,
)
_register(
    *("pathological", "Pathological", "each device has a few classes only (arXiv 2102.02079)"),
    PathologicalOptions,
)
_register("shard", "Shard", "shards of the images sorted by class (arXiv 1602.05629)", ShardOptions)


@PARTITIONERS.register(
    "distribution", "few classes per device, log-normal sizes (FedProx)", DistributionOptions
)
def distribution(
    options: DistributionOptions, *, num_partitions: int, num_classes: int, seed: int
) -> Any:
    """Power-law sizes (arXiv 1812.06127); needs a whole multiple of the classes as devices."""
    columns = options.num_unique_labels_per_partition * num_partitions // num_classes
    sizes = generator(seed, "partition sizes").lognormal(0.0, options.sigma, (num_classes, columns))
    return _library().DistributionPartitioner(
        distribution_array=sizes,
        num_partitions=num_partitions,
        num_unique_labels_per_partition=options.num_unique_labels_per_partition,
        partition_by="label",
        preassigned_num_samples_per_label=options.preassigned_num_samples_per_label,
        seed=seed,
    )


@PARTITIONERS.register("natural_id", "each person's images stay on one device (needs persons)")
def natural_id(options: NoOptions, *, num_partitions: int, num_classes: int, seed: int) -> Any:
    """One part per person."""
    return _library().NaturalIdPartitioner(partition_by="person")
