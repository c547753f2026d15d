"""Looks up the truth behind intercepts, on the scorer's side of the wall."""

from collections.abc import Sequence

import numpy as np

from testbed.data.federated import to_unit
from testbed.engine.attacking.scoring import Victims
from testbed.engine.network.taps import Intercept
from testbed.engine.serving.serve import ServedArm
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunInputs


def victims_of(
    inputs: RunInputs, models: ArmModels, read: Sequence[Intercept], served: ServedArm
) -> Victims:
    """Return the victims of these intercepts, in their order."""
    by_request = {item.request: item.image for item in served.requests}
    rows = np.array([by_request[item.request] for item in read], dtype=np.int64)
    pool, pool_rows = inputs.data.pool, inputs.data.parts.victims
    return Victims(
        requests=np.array([item.request for item in read], dtype=np.int64),
        rows=rows,
        devices=np.array([item.device for item in read], dtype=np.int64),
        device_classes=[inputs.fleet.device_class(item.device) for item in read],
        tiers=[models.tiers[int(models.tier_of[item.device])].device_spec.tier for item in read],
        links=[inputs.fleet.link(item.device).name for item in read],
        labels=pool.labels[rows],
        images=to_unit(pool.images[rows]),
        pool=to_unit(pool.images[pool_rows]),
        pool_index=np.searchsorted(pool_rows, rows),
        persons=None if pool.persons is None else pool.persons[rows],
    )
