"""Optimisers and gradients without torch's compiler give the same numbers, and do not load it."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from testbed.core.plain_torch import weighted_gradients, without_weights

PROGRAM = """
import sys
import torch
from torch import nn
from testbed.core.plain_torch import plain_optimisers, weighted_gradients, without_weights

def trained(kind, **options):
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimiser = kind(network.parameters(), 0.1, **options)
    for step in range(3):
        optimiser.zero_grad()
        network(torch.ones(4, 3)).square().sum().backward()
        assert optimiser.step(lambda: 5.0) == 5.0
        assert torch.is_grad_enabled()
    optimiser.load_state_dict(optimiser.state_dict())
    return torch.cat([value.flatten() for value in network.state_dict().values()])

CASES = [
    (torch.optim.Adam, {}), (torch.optim.Adam, {"fused": True}), (torch.optim.AdamW, {}),
    (torch.optim.SGD, {"momentum": 0.9}),
]
if sys.argv[1] == "plain":
    plain_optimisers()
    plain_optimisers()
    x = torch.ones(2, 3, requires_grad=True)
    weighted_gradients([x * 2], [x], [torch.ones(2, 3)])
    without_weights(nn.Conv2d, 3, 4, 3)
print([trained(kind, **options).tolist() for kind, options in CASES])
loaded = {"torch._dynamo", "sympy"} & set(sys.modules)
assert bool(loaded) == (sys.argv[1] != "plain"), loaded
"""


def test_optimisers_give_the_same_numbers_without_the_compiler() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
        ).stdout
        for how in ("plain", "as it comes")
    }
    assert len(printed) == 1


@pytest.mark.parametrize("shared", [False, True])
def test_weighted_gradients_are_those_of_torch(shared: bool) -> None:
    torch.manual_seed(0)
    network, unused = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), torch.ones(2)
    leaves = [*network.parameters(), unused.requires_grad_()]
    released = network(torch.rand(4, 1, 6, 6))
    penalty = (released if shared else network(torch.rand(4, 1, 6, 6))).square().mean()
    weights = [torch.rand_like(released), torch.ones(())]
    own = weighted_gradients([released, penalty], leaves, weights, retain_graph=True)
    theirs = torch.autograd.grad([released, penalty], leaves, weights, materialize_grads=True)
    assert all(map(torch.equal, own, theirs))
    assert not own[-1].any()


def test_weights_of_another_shape_are_refused() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"shape \(1, 3\) for an output of shape \(2, 3\)"):
        weighted_gradients([x * 2], [x], [torch.ones(1, 3)])


def test_a_layer_without_weights_draws_none_and_can_be_trained() -> None:
    before = torch.random.get_rng_state()
    layer = without_weights(nn.Conv2d, 3, 4, 5, padding=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    theirs = nn.Conv2d(3, 4, 5, padding=2)
    assert str(layer) == str(theirs)
    layer.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(layer(image), theirs(image))
    assert all(value.requires_grad for value in layer.parameters())
