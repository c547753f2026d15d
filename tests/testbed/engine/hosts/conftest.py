"""Two hosts of Ray with two devices of four black images, for the tests of a module."""

import numpy as np
import pytest

from testbed.engine.hosts.host import HostData
from testbed.engine.hosts.on_ray.backend import RayBackend


@pytest.fixture(scope="module")
def backend():
    images = np.zeros((8, 1, 32, 32), dtype=np.uint8)
    rows = [np.arange(4), np.arange(4, 8)]
    backend = RayBackend(2, HostData(images, np.zeros(8, dtype=np.int64), rows))
    yield backend
    backend.close()
