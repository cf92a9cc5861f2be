"""One function moves averages, targets and teachers."""

from __future__ import annotations

import copy

import torch
from torch import nn

from common.ema import Ema, follow
from common.sac import polyak


def test_follow_is_the_formula_and_leaves_the_source_alone() -> None:
    fast = nn.Linear(5, 3)
    slow = copy.deepcopy(fast)
    before = [p.detach().clone() for p in slow.parameters()]
    with torch.no_grad():
        for p in fast.parameters():
            p.add_(torch.randn_like(p))
    kept = [p.detach().clone() for p in fast.parameters()]
    follow(slow.parameters(), fast.parameters(), 0.25)
    for s, b, f in zip(slow.parameters(), before, fast.parameters(), strict=True):
        assert torch.equal(s, b.lerp(f, 0.25))  # bit for bit
        torch.testing.assert_close(s, 0.75 * b + 0.25 * f)
        assert s.requires_grad and s.grad_fn is None
    assert all(torch.equal(a, b) for a, b in zip(kept, fast.parameters(), strict=True))


def test_all_users_move_alike() -> None:
    fast, decay = nn.Linear(4, 4), 0.9
    target, ema = nn.Linear(4, 4), Ema(fast.parameters(), decay, warm_up=False)
    target.load_state_dict(fast.state_dict())
    with torch.no_grad():
        fast.weight.mul_(3.0)
    ema.update()
    polyak(target, fast, 1 - decay)
    assert all(torch.equal(a, b) for a, b in zip(ema.averages, target.parameters(), strict=True))
