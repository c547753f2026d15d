"""Registers the partitioners of flwr-datasets, with typed options.

Each factory is called as ``factory(options, num_partitions=..., num_classes=..., seed=...)`` and
returns a function from the columns ``label`` and ``person`` to the rows of each part.
``iid`` and ``dirichlet``, which most scenarios use, give the same parts as the classes of
flwr-datasets, which take longer to import than torch (``flwr_datasets``, ``datasets``, pandas and
matplotlib); the others are these classes.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from testbed.core.registries import PARTITIONERS
from testbed.core.registry import NoOptions, Options
from testbed.core.seeds import generator
from testbed.data.images import IntArray

PositiveInt = Annotated[int, Field(ge=1)]
Columns = Mapping[str, IntArray]
Split = Callable[[Columns], list[IntArray]]
DIRICHLET_DRAWS = 11


def _library() -> Any:
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from flwr_datasets import partitioner

    return partitioner


def _of_library(partitioner: Any) -> Split:
    """Return the parts that a ``flwr_datasets.partitioner.Partitioner`` makes."""

    def split(columns: Columns) -> list[IntArray]:
        import datasets  # slow to import

        count = len(next(iter(columns.values())))
        table = {**columns, "row": np.arange(count)}
        # natural ids show a progress bar
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            # the Arrow format returns columns without conversion, 20 times faster than "numpy"
            partitioner.dataset = datasets.Dataset.from_dict(table).with_format("arrow")
            return [
                np.asarray(partitioner.load_partition(index)["row"], dtype=np.int64)
                for index in range(partitioner.num_partitions)
            ]

    return split


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
    def factory(options: Options, *, num_partitions: int, num_classes: int, seed: int) -> Split:
        more = {"partition_by": "label", "seed": seed, **options.model_dump()} if by_class else {}
        partitioner = getattr(_library(), f"{library_class}Partitioner")
        return _of_library(partitioner(num_partitions=num_partitions, **more))


@PARTITIONERS.register("iid", "equal numbers of images, drawn at random")
def iid(options: NoOptions, *, num_partitions: int, num_classes: int, seed: int) -> Split:
    """Consecutive images, which come in random order."""

    def split(columns: Columns) -> list[IntArray]:
        return np.array_split(np.arange(_enough(columns, num_partitions)), num_partitions)

    return split


@PARTITIONERS.register(
    "dirichlet", "class shares drawn from Dirichlet(alpha) (arXiv 1905.12022)", DirichletOptions
)
def dirichlet(
    options: DirichletOptions, *, num_partitions: int, num_classes: int, seed: int
) -> Split:
    """Draw each class's shares of the parts; repeat all draws while a part is too small."""

    def split(columns: Columns) -> list[IntArray]:
        labels = columns["label"]
        _enough(columns, num_partitions)
        rng = np.random.default_rng(seed)
        for _ in range(DIRICHLET_DRAWS):
            parts = _dirichlet_parts(labels, num_partitions, options, rng)
            if min(map(len, parts)) >= options.min_partition_size:
                break
        else:
            raise ValueError(
                f"{DIRICHLET_DRAWS} draws left a part with fewer than min_partition_size images"
            )
        for part in parts:
            rng.shuffle(part)
        return parts

    return split


def _enough(columns: Columns, count: int) -> int:
    """Return the number of images, which must not be smaller than that of the parts."""
    images = len(columns["label"])
    if count > images:
        raise ValueError("there are fewer images than parts")
    return images


def _dirichlet_parts(
    labels: IntArray, count: int, options: DirichletOptions, rng: np.random.Generator
) -> list[IntArray]:
    """Return the rows of each part, class after class."""
    pieces: list[list[IntArray]] = [[] for _ in range(count)]
    sizes = np.zeros(count, dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        shares = rng.dirichlet(np.full(count, options.alpha))
        if options.self_balancing:
            shares[sizes > len(labels) / count] = 0.0
            shares /= np.cumsum(shares)[-1]
        ends = (np.cumsum(shares) * len(rows)).astype(int)[:-1]
        for number, piece in enumerate(np.split(rows, ends)):
            pieces[number].append(piece)
            sizes[number] += len(piece)
    return [np.concatenate(parts) for parts in pieces]


_register("linear", "Linear", "random images, sizes growing linearly over the devices")
_register("square", "Square", "random images, sizes growing quadratically over the devices")
_register("exponential", "Exponential", "random images, sizes growing exponentially (few devices)")
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
) -> Split:
    """Power-law sizes (arXiv 1812.06127); needs a whole multiple of the classes as devices."""
    columns = options.num_unique_labels_per_partition * num_partitions // num_classes
    sizes = generator(seed, "partition sizes").lognormal(0.0, options.sigma, (num_classes, columns))
    partitioner = _library().DistributionPartitioner(
        distribution_array=sizes,
        num_partitions=num_partitions,
        num_unique_labels_per_partition=options.num_unique_labels_per_partition,
        partition_by="label",
        preassigned_num_samples_per_label=options.preassigned_num_samples_per_label,
        seed=seed,
    )
    return _of_library(partitioner)


@PARTITIONERS.register("natural_id", "each person's images stay on one device (needs persons)")
def natural_id(options: NoOptions, *, num_partitions: int, num_classes: int, seed: int) -> Split:
    """One part per person."""
    return _of_library(_library().NaturalIdPartitioner(partition_by="person"))
