"""Recurrent agents are PyTorch's GRU, alone and stacked, in whole sequences and step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from common.marl.protocol import Seen
from common.marl.recurrent import (
    Acting,
    RecurrentAgents,
    StackedGRU,
    _Sequence,
    agent_inputs,
    input_width,
)

torch.set_num_threads(1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_torch(gru: StackedGRU, i: int, n_in: int) -> nn.GRU:
    """PyTorch's GRU with the weights of network ``i``."""
    peer = nn.GRU(n_in, gru.width)
    with torch.no_grad():
        peer.weight_ih_l0.copy_(gru.input.weight[i].T)
        peer.weight_hh_l0.copy_(gru.hidden.weight[i].T)
        peer.bias_ih_l0.copy_(gru.input.bias[i, 0])
        peer.bias_hh_l0.copy_(gru.hidden.bias[i, 0])
    return peer


@pytest.mark.parametrize("n_nets", [1, 3])
def test_a_stack_is_pytorchs_gru_per_network_and_so_are_its_gradients(n_nets: int) -> None:
    gru = StackedGRU([generator()] * n_nets, 5, 4)
    x = torch.randn(7, n_nets, 6, 5, generator=generator(1), requires_grad=True)
    weights = torch.randn(7, n_nets, 6, 4, generator=generator(2))
    out = gru(x)
    (out * weights).sum().backward()
    for i in range(n_nets):
        peer, own = as_torch(gru, i, 5), x.detach()[:, i].clone().requires_grad_()
        wanted, _ = peer(own)
        (wanted * weights[:, i]).sum().backward()
        torch.testing.assert_close(out[:, i], wanted)
        assert x.grad is not None
        torch.testing.assert_close(x.grad[:, i], own.grad)
        torch.testing.assert_close(gru.hidden.weight.grad[i].T, peer.weight_hh_l0.grad)
        torch.testing.assert_close(gru.input.weight.grad[i].T, peer.weight_ih_l0.grad)
        torch.testing.assert_close(gru.hidden.bias.grad[i, 0], peer.bias_hh_l0.grad)


def test_the_node_has_the_right_gradients_for_the_first_hidden_state_too() -> None:
    shapes = [(3, 2, 2, 9), (2, 2, 3), (2, 3, 9), (2, 1, 9)]
    inputs = [
        torch.randn(*shape, dtype=torch.double, generator=generator(i), requires_grad=True)
        for i, shape in enumerate(shapes)
    ]
    assert torch.autograd.gradcheck(_Sequence.apply, inputs)


@pytest.mark.parametrize("share", [True, False])
def test_steps_give_what_sequences_give(share: bool) -> None:
    agents = RecurrentAgents(3, 6, 4, 8, share=share, generator=generator())
    inputs = torch.randn(5, 9, 3, 6, generator=generator(1))
    whole, h = agents(inputs), agents.initial(5)
    assert whole.shape == (5, 9, 3, 4)
    for t in range(9):
        values, h = agents.step(inputs[:, t], h)
        torch.testing.assert_close(values, whole[:, t])


def test_own_networks_do_not_see_each_other_and_shared_ones_are_one() -> None:
    inputs = torch.randn(2, 4, 3, 6, generator=generator(1))
    changed = inputs.clone()
    changed[:, :, 1] += 1
    for share in (True, False):
        agents = RecurrentAgents(3, 6, 4, 8, share=share, generator=generator())
        moved = (agents(changed) - agents(inputs)).abs().amax((0, 1, 3)) > 0
        assert moved.tolist() == [False, True, False]
    shared = RecurrentAgents(3, 6, 4, 8, share=True, generator=generator())
    own = RecurrentAgents(3, 6, 4, 8, share=False, generator=generator())
    same = inputs[:, :, :1].expand(-1, -1, 3, -1)
    torch.testing.assert_close(shared(same)[:, :, 0], shared(same)[:, :, 2])
    assert not torch.allclose(own(same)[:, :, 0], own(same)[:, :, 2])


def test_inputs_hold_the_last_action_and_the_number() -> None:
    obs = torch.zeros(1, 3, 2, 4)
    actions = torch.tensor([[[2, 0], [1, 1]]])
    inputs = agent_inputs(obs, actions, 3)
    assert inputs.shape[-1] == input_width(4, 3, 2, last=True, ids=True) == 9
    assert inputs[0, 0, :, 4:7].sum() == 0  # nothing came before
    assert inputs[0, 1, :, 4:7].argmax(-1).tolist() == [2, 0]
    assert inputs[0, 2, :, 4:7].argmax(-1).tolist() == [1, 1]
    assert inputs[0, :, 0, 7:].tolist() == [[1.0, 0.0]] * 3
    assert agent_inputs(obs, None, 3, last=False, ids=False) is obs


def test_acting_gives_the_values_that_training_sees() -> None:
    agents = RecurrentAgents(
        2, input_width(4, 3, 2, last=True, ids=True), 3, 8, generator=generator()
    )
    obs = torch.randn(5, 4, 2, 4, generator=generator(3))
    actions = torch.randint(3, (5, 3, 2), generator=generator(4))
    whole = agents(agent_inputs(obs, actions, 3)).detach().numpy()
    acting = Acting(agents, 5, 3)
    for t in range(4):
        empty = np.zeros((5, 2), np.int64)
        seen = Seen(obs[:, t].numpy(), np.zeros((5, 1), np.float32), empty > 1, empty > 1, empty)
        np.testing.assert_allclose(acting.values(seen), whole[:, t], atol=1e-6)
        if t < 3:
            acting.acted(actions[:, t].numpy())
