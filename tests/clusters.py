"""A Ray cluster on this machine, as several machines would form it, for tests that join one."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._common.utils import get_default_ray_temp_dir
from ray.cluster_utils import Cluster

from testbed.engine.hosts.on_ray.cluster import short_temporary_folder


@contextmanager
def cluster_of_one_node(cpus: int, **head: Any) -> Iterator[Cluster]:
    """Start the head of a cluster, as ``ray start --head`` does, and stop all of it at the end.

    Parameters
    ----------
    head : further arguments of the head node.
    """
    # Ray writes the address of the cluster to its default folder, but does not create that folder.
    Path(get_default_ray_temp_dir()).mkdir(exist_ok=True)
    temporary = tempfile.mkdtemp(prefix="cluster-", dir=short_temporary_folder())
    node = {"num_cpus": cpus, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "temp_dir": temporary, **head})
    try:
        yield cluster
    finally:
        cluster.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)
