"""Parts of GPUs for the processes of a run on Ray, without a GPU."""

import pytest
import ray
import torch

from testbed.core import compute
from testbed.core.compute import compute_device
from testbed.core.errors import UserError
from testbed.engine.hosts.on_ray import actors
from testbed.engine.hosts.on_ray.cluster import Cluster, gpu_share


@pytest.mark.parametrize("gpus", [1, 2, 3, 8])
@pytest.mark.parametrize("processes", [3, 5, 33, 129])
def test_all_processes_fit_and_leave_the_driver_its_half(processes, gpus):
    share = gpu_share(processes, gpus)
    on_each = int(0.5 / share)
    assert on_each * gpus >= processes
    assert 0.0 < share <= 0.5


def test_a_run_on_the_cpu_reserves_no_gpu(monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 2.0})
    cluster = Cluster()
    cluster.share_gpus(5)
    assert cluster.gpu_share == 0.0


def test_a_run_on_gpus_reserves_parts_or_is_refused(monkeypatch):
    monkeypatch.setattr(compute, "_device", torch.device("cuda"))
    cluster = Cluster()
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 2.0})
    cluster.share_gpus(5)
    assert cluster.gpu_share == gpu_share(5, 2) > 0.0
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(UserError, match=r"engine\.device: 'cuda' needs a Ray cluster with GPUs"):
        cluster.share_gpus(5)


@pytest.mark.parametrize("reserved", [{}, {"GPU": 0.1}])
def test_a_process_computes_on_the_gpu_that_it_reserved(monkeypatch, reserved):
    class Here:
        def get_assigned_resources(self):
            return reserved

    shares = []
    monkeypatch.setattr(ray, "get_runtime_context", Here)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    process = actors._Process()
    assert compute_device().type == ("cuda" if reserved else "cpu")
    assert shares == list(reserved.values())
    if reserved:
        process._computing.__exit__(None, None, None)
