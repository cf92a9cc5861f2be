"""Mixers against a public implementation, their defining properties, and the two-step game."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch

from common.marl.mixers import VDN, CentralMixer, QMix, QPlex, hypernetwork

N, S, A = 3, 10, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


def test_qmix_and_vdn_are_torchrls_with_the_same_weights() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        multiagent = pytest.importorskip("torchrl.modules.models.multiagent")
    own = QMix(N, S, 32, hypernet=None, generator=generator())
    peer = multiagent.QMixer((S,), 32, N, "cpu")
    pairs = [
        (peer.hyper_w_1, own.w1[0]),
        (peer.hyper_b_1, own.b1),
        (peer.hyper_w_final, own.w2[0]),
        (peer.V[0], own.v[0]),
        (peer.V[2], own.v[2]),
    ]
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())
    q, state = draws(5, 7, N), draws(5, 7, S, seed=2)
    wanted = peer.mix(q.unsqueeze(-1), state).squeeze(-1)
    torch.testing.assert_close(own(q, state), wanted)
    vdn = multiagent.VDNMixer(N, "cpu")
    torch.testing.assert_close(VDN()(q, state), vdn.mix(q.unsqueeze(-1), None).squeeze(-1))


def test_qmix_never_falls_in_a_utility_and_mixes_many_as_it_mixes_one() -> None:
    mixer = QMix(N, S, generator=generator())
    q, state = draws(50, N).requires_grad_(), draws(50, S, seed=2)
    (grad,) = torch.autograd.grad(mixer(q, state).sum(), q)
    assert grad.min() > 0
    many = draws(50, 6, N, seed=3)
    one_by_one = torch.stack([mixer(many[:, k], state) for k in range(6)], 1)
    torch.testing.assert_close(mixer.each(many, state), one_by_one)
    central = CentralMixer(N, S, 16, generator=generator())
    one_by_one = torch.stack([central(many[:, k], state) for k in range(6)], 1)
    torch.testing.assert_close(central.each(many, state), one_by_one)


def plex(transform: str = "attention", layers: int = 1) -> QPlex:
    return QPlex(*(N, S, A), unit_dim=3, transform=transform, layers=layers, generator=generator(5))  # type: ignore[arg-type]


@pytest.mark.parametrize("transform", ["attention", "hypernet"])
def test_qplex_is_best_at_the_agents_best_actions(transform: str) -> None:
    mixer, state = plex(transform, 2), draws(20, S)
    utilities = draws(20, N, A, seed=2)
    best = utilities.amax(-1)
    joint = torch.tensor(list(itertools.product(range(A), repeat=N)))
    values = torch.stack(
        [
            mixer(
                utilities.gather(-1, u.expand(20, N)[..., None])[..., 0],
                best,
                u.expand(20, N),
                state,
            )
            for u in joint
        ],
        1,
    )
    chosen = joint[values.argmax(1)]
    assert torch.equal(chosen, utilities.argmax(-1))


def test_qplex_is_the_sum_with_importances() -> None:
    """Q_tot = sum m'_i + sum lambda_i (q'_i - m'_i), as numbers."""
    mixer, state = plex(), draws(6, S)
    utilities, actions = draws(6, N, A, seed=2), torch.randint(A, (6, N), generator=generator(3))
    q, best = utilities.gather(-1, actions[..., None])[..., 0], utilities.amax(-1)
    w, penalty = mixer.transformation(state)
    assert w.min() > 0 and penalty > 0
    shift = mixer.v(state) / N
    lam = mixer.importances(state, actions)
    wanted = (w * best + shift).sum(-1) + (lam * w * (q - best)).sum(-1)
    torch.testing.assert_close(mixer(q, best, actions, state), wanted)
    value, advantage, _ = mixer.parts(q, best, actions, state)
    torch.testing.assert_close(value + advantage, wanted)


def test_gradient_of_qplexs_advantages_goes_to_importances_only() -> None:
    mixer, state = plex(), draws(6, S)
    q = draws(6, N, seed=2).requires_grad_()
    actions = torch.zeros(6, N, dtype=torch.int64)
    mixer(q, q.detach() + 1, actions, state).sum().backward()
    w, _ = mixer.transformation(state)
    assert q.grad is not None
    torch.testing.assert_close(q.grad, w.detach())  # through V_tot alone


def test_the_central_mixer_can_fall_in_a_utility() -> None:
    q = draws(200, N).requires_grad_()
    mixer = CentralMixer(N, S, 32, generator=generator())
    (grad,) = torch.autograd.grad(mixer(q, draws(200, S, seed=2)).sum(), q)
    assert grad.min() < 0 < grad.max()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="unit_dim"):
        QPlex(N, S, A, generator=generator())
    with pytest.raises(ValueError, match="width"):
        hypernetwork(3, 3, None, generator(), layers=2)


def fitted(mixer: torch.nn.Module, payoff: torch.Tensor, steps: int = 4000) -> torch.Tensor:
    """Least squares of a 2x2 game by utilities and a mixer of a constant state. -> [2, 2]."""
    q = (0.1 * draws(2, 2, seed=9)).requires_grad_()
    state = torch.ones(4, S)
    joint = torch.tensor(list(itertools.product(range(2), repeat=2)))
    optimizer = torch.optim.Adam([q, *mixer.parameters()], lr=3e-3)
    for _ in range(steps):
        chosen = torch.stack([q[0][joint[:, 0]], q[1][joint[:, 1]]], -1)
        values = mixer(chosen, state)
        loss = (values - payoff.flatten()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return values.detach().view(2, 2)


def test_fixed_points_of_the_two_step_games_second_step() -> None:
    """VDN ends at the least-squares fit [[-1.5, 2.5], [2.5, 6.5]], QMIX at the game itself."""
    game = torch.tensor([[0.0, 1.0], [1.0, 8.0]])
    vdn = fitted(VDN(), game, 3000)
    torch.testing.assert_close(vdn, torch.tensor([[-1.5, 2.5], [2.5, 6.5]]), atol=0.02, rtol=0)
    qmix = fitted(QMix(2, S, generator=generator()), game)
    torch.testing.assert_close(qmix, game, atol=0.1, rtol=0)
