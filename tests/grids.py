"""A FleetGrid of a few devices in the test's own process."""

import numpy as np

from testbed.engine.hosts.backend import InlineBackend
from testbed.engine.hosts.host import HostData
from testbed.engine.network.costs import DeviceCosts, TierCosts
from testbed.engine.network.grid import FleetGrid
from testbed.engine.network.ledger import Ledger
from testbed.fleet.catalogue import load_catalogue
from testbed.fleet.layer_stats import layer_stats
from testbed.fleet.links import load_links
from testbed.fleet.sampling import sample_fleet
from testbed.scenario.schema import FleetSection, MixEntry

IMAGES_EACH = 10
ON_WIFI = [MixEntry(device="raspberry-pi-4", links={"wifi": 1.0})]


def small_grid(device_spec, devices, options, taps=(), mix=None):
    """Return the Grid of a fleet whose devices run a program on ten random images each."""
    section = FleetSection(size=devices, mix=mix or ON_WIFI)
    fleet = sample_fleet(section, 0, load_catalogue(), load_links())
    stats = layer_stats(device_spec.build().on_device(), device_spec.image_shape)
    costs = DeviceCosts(fleet, [TierCosts.of(fleet, stats, "cnn", 4, seed=0)])
    images, labels = random_images(devices)
    rows = [np.arange(IMAGES_EACH) + IMAGES_EACH * device for device in range(devices)]
    backend = InlineBackend(HostData(images, labels, rows))
    backend.install([device_spec])
    return FleetGrid(backend, costs, Ledger(devices), taps, options)


def random_images(devices):
    """Return the images (N, 1, 32, 32) and labels of that fleet, as uint8 and integers."""
    rng = np.random.default_rng(0)
    count = IMAGES_EACH * devices
    return rng.integers(0, 256, (count, 1, 32, 32), dtype=np.uint8), rng.integers(0, 10, count)
