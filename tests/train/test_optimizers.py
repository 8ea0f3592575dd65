"""Steps of the same share of every matrix, in all its directions alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeres.train.objectives import Orthogonal, orthogonal


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16), (1, 9)])
def test_singular_values_become_about_one_and_directions_stay(shape):
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(*shape, generator=generator), full_matrices=False)
    values = torch.logspace(0, -2, min(shape))
    found = orthogonal(u * values @ v)
    assert torch.allclose(u.mT @ found @ v.mT, torch.diag((u.mT @ found @ v.mT).diagonal()), atol=1e-3)
    assert torch.linalg.svdvals(found).sub(1).abs().max() < 0.4


def test_where_there_is_no_gradient_nothing_moves():
    assert not orthogonal(torch.zeros(3, 5)).any()
    still, zero = nn.Parameter(torch.ones(3, 5)), nn.Parameter(torch.ones(3, 5))
    zero.grad = torch.zeros(3, 5)
    Orthogonal([still, zero], lr=0.1, momentum=0.9, weight_decay=0.0).step()
    assert torch.equal(still, torch.ones(3, 5))
    assert torch.equal(zero, torch.ones(3, 5))


def test_a_step_is_a_share_of_the_weights_whatever_the_gradients_size():
    torch.manual_seed(0)
    before, gradient = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    moved = []
    for size in (1e-6, 1e3):
        weight = nn.Parameter(before.clone())
        weight.grad = size * gradient
        Orthogonal([weight], lr=0.05, momentum=0.9, weight_decay=0.0).step()
        moved.append(weight.detach() - before)
        assert float(moved[-1].norm() / before.norm()) == pytest.approx(0.2 * 0.05, rel=1e-3)
    assert torch.allclose(*moved, atol=1e-5)
    assert float((moved[0] * gradient).sum()) < 0


def test_a_badly_conditioned_problem_is_solved_where_plain_steps_are_not():
    torch.manual_seed(0)
    scales, goal = torch.logspace(0, -2, 12), torch.randn(12, 12)
    left = []
    for make in (
        lambda w: Orthogonal([w], lr=1.0, momentum=0.9, weight_decay=0.0),
        lambda w: torch.optim.SGD([w], lr=0.2, momentum=0.9, nesterov=True),
    ):
        weight = nn.Parameter(goal + 0.5 * torch.randn(12, 12))
        optimizer = make(weight)
        for step in range(200):
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * (1 - step / 200)
            optimizer.zero_grad()
            ((weight - goal) * scales).square().sum().backward()
            optimizer.step()
        left.append(float((weight - goal).detach().norm()))
    assert left[0] < 0.2 * left[1]
