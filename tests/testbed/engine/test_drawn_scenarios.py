"""Whatever the scenario: hosts, processes and interruptions change no bit of the results."""

import copy

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from small import TINY

from testbed.core.errors import UserError
from testbed.core.loading import validate_scenario
from testbed.engine import ray_backend
from testbed.engine.experiment import Experiment
from testbed.engine.folder import COLUMNS
from testbed.engine.progress import Progress, Silent
from testbed.engine.ray_cluster import LocalCluster

DEFENCES = ["none", "siftfunnel", "gaussian_noise", "quantisation", "top_k", "nopeek", "disco"]
STRATEGIES = ["fedavg", "fedadam", "fedprox", "fedmedian"]
PARTITIONERS = ["iid", {"name": "dirichlet", "alpha": 0.5}, "linear"]


@st.composite
def trees(draw):
    """Draw a scenario that runs in a second or two."""
    tree = copy.deepcopy(TINY)
    size = draw(st.integers(3, 9))
    tree["seed"] = draw(st.integers(0, 99))
    tree["data"]["partitioner"] = draw(st.sampled_from(PARTITIONERS))
    tree["fleet"] |= {
        "size": size,
        "loss_probability": draw(st.sampled_from([0.0, 0.2])),
        "infeasible": draw(st.sampled_from(["drop", "offload_raw"])),
    }
    tree["training"] |= {
        "rounds": 2,
        "cohort_size": draw(st.integers(2, size)),
        "local_steps": draw(st.integers(1, 3)),
        "batch_size": draw(st.integers(2, 8)),
        "strategy": draw(st.sampled_from(STRATEGIES)),
        "edge_optimiser": {"method": draw(st.sampled_from(["sgd", "adam"])), "learning_rate": 0.01},
    }
    front_end = {"name": "cnn", "cut": draw(st.integers(1, 2)), "width": 8}
    defence = draw(st.sampled_from(DEFENCES))
    tree["arms"] = [{"name": "drawn", "front_end": front_end, "defence": defence}]
    tree["adversaries"] = tree["adversaries"][:1]
    tree["engine"]["shard_size"] = draw(st.integers(1, 4))
    return tree


class StopInTraining(Silent):
    """A display that presses Ctrl-C after the first round."""

    def advance(self, steps, note):
        if note.startswith("round 1/"):
            raise KeyboardInterrupt


class SharedCluster(LocalCluster):
    """A Ray that several runs use one after another; each ends its own processes only."""

    foreign = True

    def close(self):
        pass


@pytest.fixture(scope="module")
def one_ray():
    """Start Ray once for all drawn scenarios."""
    cluster = SharedCluster(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_backend, "_cluster", lambda hosts, address: (cluster, hosts))
        yield
    LocalCluster.close(cluster)


def results(folder):
    tables = {name: pq.read_table(folder / f"{name}.parquet").to_pylist() for name in COLUMNS}
    return (folder / "results.json").read_bytes(), tables


@pytest.mark.long
@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(tree=trees(), hosts=st.sampled_from([1, 2]))
def test_inline_and_resumed_on_hosts_are_equal(one_ray, tmp_path_factory, tree, hosts):
    folder = tmp_path_factory.mktemp("drawn")
    try:
        Experiment(validate_scenario(tree, "drawn"), folder / "inline", Progress()).run()
    except UserError:
        reject()  # a fleet in which nobody can train, for instance
    stopping = Progress(StopInTraining())
    with pytest.raises(KeyboardInterrupt):
        Experiment(validate_scenario(tree, "drawn"), folder / "hosts", stopping).run()
    tree["engine"] |= {"backend": "ray", "hosts": hosts}
    Experiment(validate_scenario(tree, "drawn"), folder / "hosts", Progress()).run(resume=True)
    assert results(folder / "hosts") == results(folder / "inline")
