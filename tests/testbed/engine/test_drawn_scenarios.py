"""Random scenarios: hosts, shards, killed hosts and interrupts change no byte of the results."""

import copy
import json
import os
import signal

import pytest
import ray
import whole_runs
from hypothesis import HealthCheck, Phase, given, note, reject, settings
from hypothesis import strategies as st
from small import TINY
from whole_runs import everything

from testbed.core.errors import UserError
from testbed.core.progress import Display
from testbed.engine.hosts.backend import InlineBackend
from testbed.engine.hosts.on_ray import backend as ray_backend
from testbed.engine.hosts.on_ray.cluster import LocalCluster
from testbed.engine.hosts.on_ray.hosts import RayHosts

pytestmark = [pytest.mark.long, pytest.mark.processes]
DEFENCES = [
    *("none", "siftfunnel", "gaussian_noise", "laplace_noise", "quantisation", "top_k"),
    *("nopeek", "disco", "vib", {"name": "cem", "base": "quantisation"}),
]
STRATEGIES = ["fedavg", "fedadam", "fedprox", "fedmedian"]
PARTITIONERS = ["iid", {"name": "dirichlet", "alpha": 0.5}, "linear"]
AVAILABILITIES = [{"name": "bernoulli", "probability": 0.9}, "diurnal"]
SMALL = {"name": "small", "devices": ["mcu"], "front_end": {"cut": 1, "width": 8}}
GUARDED = {"name": "guarded", "devices": ["sbc"], "defence": "gaussian_noise"}
INT8 = {"name": "int8", "devices": ["raspberry-pi-4"], "precision": "int8"}
TIERS = [[], [SMALL], [{**SMALL, "precision": "int8"}, GUARDED], [INT8]]
ADVERSARIES = [
    *TINY["adversaries"],
    {"name": "asks", "attack": "ridge", "knowledge": {"weights": False, "queries": 60}},
    {"name": "labels", "attack": "label_inference", "knowledge": {"weights": False}},
    {"name": "replays", "attack": "ridge", "knowledge": {"replays": 3}},
    {"name": "trained", "attack": "ridge", "victims": "both", "training_rounds": [1, -1]},
    {"name": "decodes", "attack": {"name": "residual_decoder", "max_epochs": 2}},
]
STEERS = {
    "name": "steers",
    "position": {"tap": "cloud"},
    "attack": {"name": "fsha", "pilot_steps": 4, "updates_per_step": 1},
}
PHASES = ("train", "fine-tune", "serve", "attack")


@st.composite
def trees(draw):
    """Draw a scenario that runs in a second or two."""
    tree = copy.deepcopy(TINY)
    size = draw(st.integers(4, 9))
    arm = {
        "name": "drawn",
        "front_end": {"name": "cnn", "cut": draw(st.integers(1, 2)), "width": 8},
        "defence": draw(st.sampled_from(DEFENCES)),
        "precision": draw(st.sampled_from(["float32", "int8"])),
    }
    tree["seed"] = draw(st.integers(0, 99))
    tree["data"]["partitioner"] = draw(st.sampled_from(PARTITIONERS))
    tree["data"]["serving_images"] = draw(st.sampled_from(["own", "uniform"]))
    tree["fleet"] |= {
        "size": size,
        "availability": draw(st.sampled_from(AVAILABILITIES)),
        "assignments": copy.deepcopy(draw(st.sampled_from(TIERS))),
        "loss_probability": draw(st.sampled_from([0.0, 0.2])),
        "devices_per_access_point": draw(st.sampled_from([None, 2])),
        "radio_sleep": draw(st.booleans()),
        "infeasible": draw(st.sampled_from(["drop", "offload_raw", "smaller_front_end"])),
    }
    tree["training"] = draw(trainings(size))
    tree["serving"] = draw(servings())
    tree["adversaries"] = draw(
        st.lists(st.sampled_from(ADVERSARIES), min_size=1, max_size=2, unique_by=str)
    )
    if "protocol" not in tree["training"] and draw(st.booleans()):
        tree["adversaries"].append(STEERS)
        arm["hijacked_by"] = "steers"
    tree["arms"] = [arm]
    tree["engine"]["shard_size"] = draw(st.integers(1, 4))
    return tree


@st.composite
def trainings(draw, size):
    """Draw the training section; models trained by a provider are not kept for the next run."""
    section = {
        "rounds": 2,
        "cohort_size": draw(st.integers(2, size)),
        "local_steps": draw(st.integers(1, 3)),
        "batch_size": draw(st.integers(2, 8)),
        "round_deadline_s": draw(st.sampled_from([2.0, 600.0])),
        "offline_noticed_after_s": draw(st.sampled_from([None, 0.0, 1.0])),
        "strategy": draw(st.sampled_from(STRATEGIES)),
        "device_weights": draw(st.sampled_from(["images", "uniform"])),
        "edge_optimiser": {
            "method": draw(st.sampled_from(["sgd", "adam", "sign"])),
            "learning_rate": 0.01,
        },
    }
    if draw(st.booleans()):
        section |= {
            "protocol": "provider",
            "reuse_models": False,
            "fine_tune_rounds": draw(st.integers(0, 2)),
            "provider": {
                "epochs": 2,
                "batch_size": 16,
                "share_of_training": draw(st.sampled_from([0.5, 1.0])),
                "augmentation": {"crop_padding_px": draw(st.sampled_from([0, 2]))},
            },
        }
    return section


@st.composite
def servings(draw):
    """Draw the serving section: servers, batches and radios."""
    batches = draw(st.sampled_from([{}, {"max_batch": 4, "batch_window_ms": 50.0}]))
    return batches | {
        "horizon_s": draw(st.sampled_from([2.0, 600.0])),
        "cloud_servers": draw(st.integers(1, 2)),
    }


class StopAtMoment(Display):
    """A display that raises an interrupt at one of the moments that every run of a scenario has.

    Moments are the beginnings of an arm's phases, and the ends of rounds and epochs.
    """

    def __init__(self, moment=None):
        self.moments = 0
        self.last = moment

    def begin(self, phase, steps):
        if phase.split()[0] in PHASES:
            self._pass()

    def advance(self, steps, note):
        if steps and note.startswith(("round ", "epoch ")):
            self._pass()

    def _pass(self):
        self.moments += 1
        if self.moments == self.last:
            raise KeyboardInterrupt


class SharedCluster(LocalCluster):
    """A Ray that several runs use in turn; each run ends only its own processes."""

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


def run(tree, folder, display=None, resume=False, **engine):
    tree = {**tree, "engine": {**tree["engine"], **engine}}
    return everything(whole_runs.run(tree, folder, display, resume))


def run_inline(tree, folder):
    """Return the results, how often hosts were called, and how many moments there were."""
    handle, calls, display = InlineBackend.handle, [], StopAtMoment()

    def counted(self, shards):
        calls.append(len(shards))
        return handle(self, shards)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InlineBackend, "handle", counted)
        return run(tree, folder, display), len(calls), display.moments


def run_and_kill(tree, folder, call, **engine):
    """Run, and kill the first host that receives a shard of this call."""
    handle, calls = RayHosts.handle, []

    def handle_and_kill(self, shards):
        calls.append(len(shards))
        if len(calls) == call:
            actor = self.actors[shards[0][0] if shards else 0]
            process = ray.get(actor.__ray_call__.remote(lambda host: os.getpid()))
            os.kill(process, signal.SIGKILL)
        return handle(self, shards)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RayHosts, "handle", handle_and_kill)
        found = run(tree, folder, backend="ray", **engine)
    assert json.loads((folder / "host.json").read_text())["host_restarts"] == 1
    return found


def run_interrupted(tree, folder, moment, **engine):
    """Run inline until a moment, then resume on hosts."""
    with pytest.raises(KeyboardInterrupt):
        run(tree, folder, StopAtMoment(moment))
    return run(tree, folder, resume=True, backend="ray", **engine)


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(tree=trees(), data=st.data())
def test_hosts_a_death_and_an_interrupt_give_the_bytes_of_one_process(
    one_ray, tmp_path_factory, tree, data
):
    folder = tmp_path_factory.mktemp("drawn")
    try:
        inline, calls, moments = run_inline(tree, folder / "inline")
    except UserError:
        reject()  # such as a fleet in which no device can train
    call = data.draw(st.integers(1, calls), label="killed at call")
    moment = data.draw(st.integers(1, moments), label="interrupted at moment")
    shards = data.draw(st.integers(1, 4), label="shard size on one host")
    note(f"results in {folder}")
    assert run(tree, folder / "one", backend="ray", hosts=1, shard_size=shards) == inline
    assert run_and_kill(tree, folder / "two", call, hosts=2) == inline
    assert run_interrupted(tree, folder / "four", moment, hosts=4) == inline
