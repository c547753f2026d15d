"""What a device that enrolled, got the front-end and was never chosen takes in memory."""

import gc
import tracemalloc

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from server.serving import Serving
from testbed.core import protocol
from testbed.core.loading import validate_scenario
from testbed.data.device_rows import DeviceRows
from testbed.engine.experiment import Experiment, arm_models
from testbed.engine.host import device_of, node_of
from testbed.engine.journal import Journal
from testbed.engine.node_tiers import NodeTiers
from testbed.engine.progress import Progress
from testbed.engine.training import prepare
from testbed.engine.world import World, read_setting, start_backend
from testbed.fleet.link_effects import RadioTimers

IMAGES = 2
MOST_BYTES = 100


def idle_fleet(tree, size, folder):
    """Return everything that a run holds once a fleet is enrolled and deployed on."""
    tree["fleet"]["size"] = size
    tree["fleet"]["assignments"] = [
        {"name": "small", "devices": ["raspberry-pi-4"], "front_end": {"width": 8}}
    ]
    tree["data"]["images_per_device"] = IMAGES
    scenario = validate_scenario(tree, "test")
    setting = read_setting(scenario)
    models = [arm_models(setting, arm) for arm in scenario.arms]
    backend = start_backend(setting, None)
    backend.install([tier.program for tier in models[0].tiers])
    experiment = Experiment(scenario, folder, Progress())
    experiment._setting = setting
    world = World(setting, backend, folder, experiment.progress)
    taps = experiment._taps()
    arm = prepare(world, models[0], experiment._grid(world, models[0], taps))
    arm.server.eligible = arm.server._enrol(arm.grid)
    assert len(arm.server.eligible) > 0.7 * size
    weights = [(tier.parameters, tier.statistics) for tier in arm.server.tiers]
    serving = Serving(arm.cloud, weights, NodeTiers(models[0].tier_of))
    assert len(serving.deploy(arm.grid)) > 0.7 * size
    radio = RadioTimers(setting.fleet, scenario.seed)
    return world, models, arm, serving, radio


@pytest.mark.long  # and alone: other tests' caches grow meanwhile
def test_an_idle_device_takes_under_100_bytes(tiny, tmp_path):
    """All bytes that are allocated, of numbers and of objects, as the fleet grows."""
    tiny["fleet"]["availability"] = {"name": "diurnal"}
    idle_fleet(tiny, 20, tmp_path)  # what is read and imported once
    sizes, held = (100, 2100), []
    for size in sizes:
        gc.collect()
        tracemalloc.start()
        kept = idle_fleet(tiny, size, tmp_path)
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(kept[0].setting.fleet) == size
    each = (held[1] - held[0]) / (sizes[1] - sizes[0])
    assert 50 < each - 4 * IMAGES < MOST_BYTES  # beside the numbers of its images


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**33), max_size=4), min_size=1))
def test_rows_of_devices_are_what_was_given(given_rows):
    rows = DeviceRows([np.array(own, dtype=np.int64) for own in given_rows])
    assert [own.tolist() for own in rows] == given_rows
    assert {own.dtype for own in rows} == {np.dtype(np.int64)}
    with pytest.raises(IndexError):
        rows[len(given_rows)]


def test_a_journal_keeps_of_deployments_the_contents_and_the_nodes(identity):
    contents = [RecordDict({"config": ConfigRecord({"tier": tier})}) for tier in (0, 1)]
    sent = [Message(contents[item % 2], node_of(item), protocol.DEPLOY) for item in (4, 5, 6, 8)]
    journal = Journal()
    journal.note(sent)
    repeated = journal.shards()
    devices = [[device_of(message.metadata.dst_node_id) for message in shard] for shard in repeated]
    assert devices == [[4, 6, 8], [5]]
    kept = [{id(message.content) for message in shard} for shard in repeated]
    assert kept == [{id(content)} for content in contents]
    assert {m.metadata.message_type for shard in repeated for m in shard} == {protocol.DEPLOY}
