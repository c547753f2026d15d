"""Defences compute on the torch device of their images, which training on a GPU requires."""

import pytest
import torch
from small import make_spec

from testbed.core.registries import DEFENCES

META = torch.device("meta")  # shapes without values, in place of any device other than the CPU


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", DEFENCES.names())
def test_a_training_step_stays_on_the_device_of_the_images(name, precision):
    edge = make_spec(defence=name, precision=precision).build()
    edge.to(META)
    edge.front_end.train()
    x = torch.zeros(4, 1, 32, 32, device=META)
    labels = torch.zeros(4, dtype=torch.int64, device=META)
    try:
        batch = edge.own_batch(x, labels, torch.Generator())
        penalty = edge.defence.penalty(batch)
        loss = batch.released.sum() if penalty is None else batch.released.sum() + penalty
        loss.backward()
        if edge.own_adversary():
            edge.defence.adversary_loss(batch.without_gradients()).backward()
    except NotImplementedError:
        pytest.skip("its computation depends on values, which this device does not have")
    assert batch.released.device == batch.z.device == META
    assert all(value.device == META for value in edge.own_weights().values())
