"""Sets of k from n items, built by adding one item at a time; complete sets are the objects."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG, dag_from_children


def set_states(n_items: int, size: int) -> Tensor:
    """Membership of all sets of at most ``size`` items, smallest first. [N, n] bool."""
    rows = []
    for k in range(size + 1):
        for chosen in combinations(range(n_items), k):
            row = torch.zeros(n_items, dtype=torch.bool)
            row[list(chosen)] = True
            rows.append(row)
    return torch.stack(rows)


def set_dag(n_items: int, size: int, log_reward_fn: Callable[[Tensor], Tensor]) -> EnumeratedDAG:
    """Action i adds item i, backward action i removes it.

    Args:
        log_reward_fn: membership of complete sets [M, n] bool -> log R [M].
    """
    members = set_states(n_items, size)
    n = len(members)
    weight = 2 ** torch.arange(n_items)
    code = (members * weight).sum(-1)
    order = code.argsort()
    count = members.sum(-1)
    children = torch.full((n, n_items), -1)
    for item in range(n_items):
        rows = (~members[:, item] & (count < size)).nonzero().squeeze(-1)
        children[rows, item] = order[torch.searchsorted(code[order], code[rows] + weight[item])]
    log_reward = torch.full((n,), -torch.inf, dtype=torch.float64)
    complete = count == size
    log_reward[complete] = log_reward_fn(members[complete]).double()
    return dag_from_children(
        children,
        log_reward=log_reward,
        level=count,
        backward_index=torch.arange(n_items).expand(n, -1).contiguous(),
        active=2 * torch.arange(n_items) + members.long(),  # one-hot of "is in" per item
        input_dim=2 * n_items,
    )
