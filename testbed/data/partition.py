"""Distributes the training images over the devices, and assigns the victims to owners."""

import numpy as np

from testbed.core.errors import UserError
from testbed.core.registries import PARTITIONERS
from testbed.core.seeds import generator
from testbed.data.device_rows import DeviceRows, DrawnRows, ImagesOfDevices
from testbed.data.images import ImagePool, IntArray
from testbed.data.splits import Parts
from testbed.scenario.schema import DataSection


def partition_training(
    pool: ImagePool, parts: Parts, section: DataSection, num_devices: int, seed: int
) -> ImagesOfDevices:
    """Return the rows of the pool that each device trains on, ascending.

    Without ``images_per_device`` the devices' rows are disjoint, and the partitioner may leave some
    devices without any. With it, the training images are first partitioned into parts of about
    ``images_per_device`` images. The parts are assigned to the devices in turn, and each device
    draws its rows from its part with replacement. This keeps the class skew for fleets that are
    larger than the data.

    The assignment of parts to devices is drawn by seed, so that sizes that grow with the part's
    number (linear, square, exponential) do not follow the order of device classes.

    Raises
    ------
    UserError : the partitioner cannot make these parts.
    """
    rows = generator(seed, "partition order").permutation(parts.training)
    num_partitions = num_devices
    if section.images_per_device is not None:
        num_partitions = _filled_partitions(
            len(rows), section.images_per_device, num_devices, pool.num_classes
        )
    partitions = _partition(pool, rows, section, num_partitions, seed)
    partitions = [
        partitions[index]
        for index in generator(seed, "partition deal").permutation(len(partitions))
    ]
    if section.images_per_device is None:
        # natural ids can give more partitions than devices: a device then gets several
        return DeviceRows(
            [
                np.sort(np.concatenate([np.empty(0, np.int64), *partitions[device::num_devices]]))
                for device in range(num_devices)
            ]
        )
    filled = [partition for partition in partitions if len(partition)]
    return DrawnRows(filled, section.images_per_device, num_devices, seed)


def _filled_partitions(
    num_images: int, images_per_device: int, num_devices: int, num_classes: int
) -> int:
    """Return the number of full partitions of ``images_per_device``, at most one per device."""
    count = max(1, min(num_devices, num_images // images_per_device))
    # a whole multiple of the classes, where possible, suits partitioners that go by class
    return count - count % num_classes if count >= num_classes else count


def _partition(
    pool: ImagePool, rows: IntArray, section: DataSection, num_partitions: int, seed: int
) -> list[IntArray]:
    """Run the partitioner over shuffled rows of the pool."""
    choice = section.partitioner
    columns = {"label": pool.labels[rows]}
    if pool.persons is not None:
        columns["person"] = pool.persons[rows]
    elif choice.name == "natural_id":
        raise UserError(
            f"data.partitioner: natural_id needs persons, {pool.name} has none; for "
            "parquet_folder, data.options.person_column names their column"
        )
    split = PARTITIONERS.create(
        choice.name,
        choice.options,
        num_partitions=num_partitions,
        num_classes=len(np.unique(columns["label"])),
        seed=int(generator(seed, "partitioner").integers(2**31)),
    )
    try:
        partitions = [rows[part] for part in split(columns)]
    except (ValueError, IndexError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.partitioner: {choice.name} cannot split {len(rows)} images of {pool.name} "
            f"into {num_partitions} parts ({reason:.200}); use fewer devices, more images, other "
            "options, or data.images_per_device"
        ) from None
    if not any(len(partition) for partition in partitions):
        raise UserError(f"data.partitioner: {choice.name} leaves every device without images")
    return partitions


def assign_victims(
    parts: Parts, fleet_size: int, seed: int, eligible: IntArray | None = None
) -> IntArray:
    """Return the owner device of each victim image (aligned with ``parts.victims``).

    Victims are spread evenly, in seeded random order, over the ``eligible`` device ids (all
    ``fleet_size`` devices by default): numbers per device differ by at most one.

    Raises
    ------
    UserError : no eligible device.
    """
    devices = np.arange(fleet_size) if eligible is None else np.asarray(eligible, dtype=np.int64)
    if len(devices) == 0:
        raise UserError("fleet: no device can own a victim's image")
    draw = generator(seed, "victim owners")
    devices = draw.permutation(devices)
    owners = np.empty(len(parts.victims), dtype=np.int64)
    owners[draw.permutation(len(owners))] = devices[np.arange(len(owners)) % len(devices)]
    return owners


def assign_own_victims(
    pool: ImagePool, parts: Parts, device_images: ImagesOfDevices, seed: int
) -> IntArray:
    """Return the owner of each victim (aligned with ``parts.victims``), by the devices' classes.

    The victims of a class are dealt in proportion to the training images of this class that each
    device holds, so that a device serves the classes that it trains on, in their proportions. No
    device gets more than its share rounded up, nor less than rounded down (systematic sampling).
    Victims of a class that no device holds are spread evenly over all devices.
    """
    devices = np.arange(len(device_images))
    holders = np.repeat(devices, device_images.lengths)
    held = pool.labels[device_images.flat()]
    wanted = pool.labels[parts.victims]
    owners = np.empty(len(parts.victims), dtype=np.int64)
    for label in np.unique(wanted):
        draw = generator(seed, "victim owners by class", int(label))
        own, images = np.unique(holders[held == label], return_counts=True)
        if not len(own):
            own, images = devices, np.ones(len(devices), dtype=np.int64)
        order = draw.permutation(len(own))
        victims = draw.permutation(np.flatnonzero(wanted == label))
        ends = np.cumsum(images[order]) * (len(victims) / images.sum())
        points = np.arange(len(victims)) + draw.random()
        found = np.searchsorted(ends, points, side="right")
        owners[victims] = own[order[np.minimum(found, len(own) - 1)]]
    return owners
