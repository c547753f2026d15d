"""Memory of an idle device: enrolled, with the front-end deployed, never selected."""

import copy
import gc
import tempfile
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.serving import Serving
from testbed.core.progress import Progress
from testbed.engine.hosts.backend import Backend
from testbed.engine.network.grid import fleet_grid
from testbed.engine.network.taps import open_taps
from testbed.engine.setting.models import arm_models
from testbed.engine.setting.run_context import RunContext, read_run_inputs, start_backend
from testbed.engine.setting.tiers import NodeTiers
from testbed.engine.training.fleet import TrainedArm, prepare
from testbed.fleet.link_effects import RadioUse
from testbed.scenario.loading import read_tree, validate_scenario

SCENARIO = Path(__file__).resolve().parents[2] / "scenarios" / "smoke.yaml"
IMAGES = 2  # each, drawn on demand
STORE = "object store"
WARM_UP = 20  # devices; reads and imports everything once


def idle_tree(**engine: Any) -> dict[str, Any]:
    """Return a scenario with two arms, two adversaries and intermittent devices."""
    tree = read_tree(SCENARIO)
    tree["fleet"]["availability"] = {"name": "diurnal"}
    tree["engine"] = {"backend": "inline", "cloud_threads": 1, "shard_size": 20, **engine}
    return tree


@contextmanager
def idle_fleet(tree: Mapping[str, Any], size: int, folder: Path) -> Iterator[tuple[Any, ...]]:
    """Hold the state of a run whose fleet of two tiers is enrolled and deployed on."""
    tree = copy.deepcopy(dict(tree))
    tree["fleet"]["size"] = size
    tree["fleet"]["assignments"] = [
        {"name": "small", "devices": ["raspberry-pi-4"], "front_end": {"width": 32}}
    ]
    tree["data"]["images_per_device"] = IMAGES
    scenario = validate_scenario(tree, "idle")
    inputs = read_run_inputs(scenario)
    models = [arm_models(inputs, arm) for arm in scenario.arms]
    with start_backend(inputs, scenario.engine.hosts) as backend:
        _trace_hosts(backend)
        backend.install([tier.device_spec for tier in models[0].tiers])
        run_context = RunContext(inputs, backend, folder, Progress())
        grid = fleet_grid(run_context, models[0], open_taps(inputs))
        arm = prepare(run_context, models[0], grid)
        serving = _enrolled(arm, size)
        radio = RadioUse(inputs.radio_timers)
        yield run_context, models, arm, serving, radio


def _enrolled(arm: TrainedArm, size: int) -> Serving:
    """Enrol the fleet and deploy the front-ends on all feasible devices that are online."""
    arm.server.eligible = arm.server._enrol(arm.grid)
    weights = [(tier.parameters, tier.statistics) for tier in arm.server.tiers]
    serving = Serving(arm.cloud, weights, NodeTiers(arm.models.tier_of))
    deployed = serving.deploy(arm.grid)
    if min(len(arm.server.eligible), len(deployed)) < size // 2:
        raise RuntimeError(f"{len(arm.server.eligible)} of {size} devices enrolled")
    return serving


def held_bytes(tree: Mapping[str, Any], size: int, folder: Path) -> dict[str, int]:
    """Return the bytes that each process and the object store hold for an idle fleet."""
    gc.collect()
    tracemalloc.start()
    try:
        with idle_fleet(tree, size, folder) as kept:
            gc.collect()
            driver = {"driver": tracemalloc.get_traced_memory()[0]}
            return driver | _held_on_ray(kept[0].backend)
    finally:
        tracemalloc.stop()


def _held_on_ray(backend: Backend) -> dict[str, int]:
    """Return the bytes that hosts allocated since their restart; empty if inline."""
    if backend.name != "ray":
        return {}
    import ray
    from ray._private.internal_api import node_stats

    def traced(host: Any) -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    actors = backend._alive.actors  # type: ignore[attr-defined]
    held = ray.get([actor.__ray_call__.remote(traced) for actor in actors])
    (node,) = ray.nodes()
    store = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"]).store_stats
    hosts = {f"host {number}": value for number, value in enumerate(held)}
    return hosts | {STORE: int(store.object_store_bytes_used)}


def _trace_hosts(backend: Backend) -> None:
    """Restart the hosts on Ray, tracing all their allocations.

    Tracing from the first import on slows Ray's processes so much that their start times out.
    """
    if backend.name != "ray":
        return
    import ray

    def begin_anew(host: Any, *data: Any) -> None:
        tracemalloc.start()
        host.__init__()
        host.load(*data)

    hosts = backend._alive  # type: ignore[attr-defined]
    ray.get([actor.__ray_call__.remote(begin_anew, *hosts._shared) for actor in hosts.actors])


def bytes_per_device(tree: Mapping[str, Any], sizes: Sequence[int]) -> dict[str, float]:
    """Return the slope of held memory by process."""
    with tempfile.TemporaryDirectory(prefix="idle-") as temporary:
        held = [held_bytes(tree, size, Path(temporary)) for size in (WARM_UP, *sizes)][1:]
    return slopes(held[0], held[-1], sizes[-1] - sizes[0])


def slopes(smaller: Mapping[str, int], larger: Mapping[str, int], devices: int) -> dict[str, float]:
    """Return the bytes per additional device by process."""
    return {place: (larger[place] - held) / devices for place, held in smaller.items()}
