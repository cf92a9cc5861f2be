"""HyperGrid, strings and bit sequences: exact constants and MDP invariants."""

from fractions import Fraction
from itertools import product

import pytest
import torch

from common.gfn.exact import (
    exact_policies,
    terminating_distribution,
    uniform_log_pf,
    visit_probabilities,
)
from common.gfn.hypergrid import REWARDS, HyperGrid, band_indices
from common.gfn.metrics import l1_sum_exact, mark_regions
from common.gfn.sampling import sample, sample_backward, sample_from_table, uniforms
from common.gfn.strings import StringEnv

BANDS = {
    8: [1, 6],
    10: [1, 8],
    11: [],
    12: [2, 9],
    16: [2, 13],
    20: [2, 3, 16, 17],
    21: [3, 17],
    32: [4, 5, 6, 25, 26, 27],
}


@pytest.mark.parametrize(("height", "indices"), BANDS.items())
def test_band_indices(height: int, indices: list[int]) -> None:
    assert band_indices(height) == indices


def exact_z(ndim: int, height: int, rewards: tuple[str, str, str]) -> Fraction:
    """Partition function in rational arithmetic, from the definition."""
    r0, r1, r2 = (Fraction(r) for r in rewards)
    total = Fraction(0)
    u = [abs(Fraction(x, height - 1) - Fraction(1, 2)) for x in range(height)]
    outer = [v > Fraction(1, 4) for v in u]
    band = [Fraction(3, 10) < v < Fraction(4, 10) for v in u]
    for x in product(range(height), repeat=ndim):
        total += r0 + r1 * all(outer[i] for i in x) + r2 * all(band[i] for i in x)
    return total


@pytest.mark.parametrize(
    ("ndim", "height", "reward", "text", "z", "mode_mass"),
    [
        (2, 8, "standard-1", ("0.1", "0.5", "2"), 22.4, None),
        (2, 16, "hard", ("0.0001", "-0.000099", "0.999999"), 4.01926, 0.99521),
        (2, 16, "standard-3", ("0.001", "0.5", "2"), 40.256, 0.24851),
        (3, 8, "standard-3", ("0.001", "0.5", "2"), 48.512, 0.41243),
        (4, 8, "standard-3", ("0.001", "0.5", "2"), 164.096, 0.24386),
    ],
)
def test_partition_function_and_mode_mass(
    ndim: int,
    height: int,
    reward: str,
    text: tuple[str, str, str],
    z: float,
    mode_mass: float | None,
) -> None:
    env = HyperGrid(ndim, height, reward)
    assert float(exact_z(ndim, height, text)) == pytest.approx(z, rel=1e-9)
    rewards = env.reward(env.all_states())
    assert float(rewards.sum()) == pytest.approx(z, rel=1e-12)
    modes = env.is_mode(env.all_states())
    if mode_mass is not None:
        assert float(rewards[modes].sum() / rewards.sum()) == pytest.approx(mode_mass, abs=5e-6)
    assert env.region(env.all_states())[modes].unique().numel() == 2**ndim


@pytest.mark.parametrize(
    ("ndim", "height", "reward", "l1"),
    [
        (2, 16, "hard", 1.94393),
        (2, 16, "standard-3", 1.57744),
        (3, 8, "standard-3", 1.78131),
        (4, 8, "standard-3", 1.84462),
    ],
)
def test_uniform_policy_l1(ndim: int, height: int, reward: str, l1: float) -> None:
    dag = HyperGrid(ndim, height, reward).dag()
    assert float(l1_sum_exact(dag, uniform_log_pf(dag))) == pytest.approx(l1, abs=5e-6)


def test_large_hard_grid_constants() -> None:
    env = HyperGrid(4, 20, "hard")
    states = env.all_states()
    assert float(env.reward(states).sum()) == pytest.approx(271.009744, rel=1e-9)
    assert int(env.is_mode(states).sum()) == 256
    mass = env.reward(states)[env.is_mode(states)].sum() / env.reward(states).sum()
    assert float(mass) == pytest.approx(0.94462, abs=5e-6)


@pytest.mark.parametrize(("ndim", "height"), [(2, 5), (3, 4)])
def test_forced_stop_counts(ndim: int, height: int) -> None:
    env = HyperGrid(ndim, height, forced_stop=True)
    dag = env.dag()
    visits = visit_probabilities(dag, uniform_log_pf(dag))
    expected = (height - 1) ** ndim + ndim * (height - 1) ** (ndim - 1)
    assert int((visits > 0).sum()) == expected
    assert int(torch.isfinite(dag.log_reward).sum()) == expected
    at_border = (env.all_states() == height - 1).sum(-1) == 1
    assert (dag.backward_mask[at_border].sum(-1) == 1).all()
    assert (env.backward_mask(env.all_states())[at_border].sum(-1) == 1).all()
    assert float(terminating_distribution(dag, uniform_log_pf(dag)).sum()) == pytest.approx(1)
    log_pf, _, _ = exact_policies(dag)
    assert float(l1_sum_exact(dag, log_pf)) < 1e-12
    longest = int(dag.level[visits > 0].max()) + 1
    assert env.max_length == longest


def environments() -> list[HyperGrid | StringEnv]:
    def reward(x: torch.Tensor) -> torch.Tensor:
        return -(x - 1).abs().sum(-1).double()

    grids = [HyperGrid(2, 5), HyperGrid(3, 4, forced_stop=True)]
    return [*grids, *(StringEnv(m, 3, 2, reward) for m in ("append", "prepend_append", "slots"))]


@pytest.mark.parametrize("number", range(5))
def test_dag_agrees_with_steps(number: int) -> None:
    env = environments()[number]
    dag = env.dag()
    src, act = (dag.children >= 0).nonzero(as_tuple=True)
    dst = dag.children[src, act]
    back = dag.backward_index[src, act]
    assert (dag.parents[dst, back] == src).all()
    assert (dag.parent_actions[dst, back] == act).all()
    assert (dag.level[dst] == dag.level[src] + 1).all()
    # as many forward edges as backward ones: parallel edges are kept everywhere
    assert int((dag.parents >= 0).sum()) == len(src)
    log_pf, _, log_flow = exact_policies(dag)
    assert float(log_flow[dag.source]) == pytest.approx(dag.log_Z, abs=1e-12)
    assert float(l1_sum_exact(dag, log_pf)) < 1e-12


@pytest.mark.parametrize("number", range(5))
def test_sampling_follows_the_exact_distribution(number: int) -> None:
    env = environments()[number]
    dag = env.dag()
    generators = [torch.Generator().manual_seed(s) for s in (1, 2)]
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, dag.n_states, dag.n_actions, generator=rng)
    log_pf = logits.masked_fill(~dag.forward_mask, -1e9).log_softmax(-1)
    exact = terminating_distribution(dag, log_pf)
    u = uniforms(generators, (dag.max_length, 20_000))
    table = sample_from_table(dag, log_pf, u)

    def network(states: torch.Tensor) -> torch.Tensor:
        return logits[torch.arange(2).unsqueeze(-1), env.index(states)]

    stepped = sample(env, network, u[:, : env.max_length])
    assert (env.index(stepped.last) == table.last).all()
    length = stepped.actions.shape[-1]
    assert (stepped.actions == table.actions[..., :length]).all()
    assert (stepped.mask == table.mask[..., :length]).all()
    for seed in range(2):
        seen = torch.bincount(table.last[seed], minlength=dag.n_states) / 20_000
        assert float((seen - exact[seed]).abs().max()) < 0.02


def test_zero_probability_is_never_sampled() -> None:
    dag = HyperGrid(2, 4).dag()
    log_pf = torch.full((1, dag.n_states, 3), -1e9)
    log_pf[..., 2] = 0.0  # always stop
    u = torch.zeros(1, dag.max_length, 8)
    u[..., 4:] = 1 - 2**-24
    assert (sample_from_table(dag, log_pf, u).last == 0).all()


def test_slots_have_factorial_orders() -> None:
    env = StringEnv("slots", 4, 3, lambda x: torch.zeros(x.shape[:-1]))
    dag = env.dag()
    pb = dag.backward_mask.sum(-1)
    assert (pb == dag.level).all()  # uniform P_B = 1/t
    objects = torch.tensor([[0, 1, 2, 0]]).expand(500, -1)
    u = torch.rand(4, 500, generator=torch.Generator().manual_seed(0))
    traj = sample_backward(env, objects, u)
    assert len(torch.unique(traj.actions, dim=0)) == 24
    state = traj.states[:, 0]
    assert (state == env.empty).all()
    for t in range(4):
        state = env.step(state, traj.actions[:, t])
        assert (state == traj.states[:, t + 1]).all()
    assert (state == objects).all()


def test_regions_are_marked() -> None:
    found = mark_regions(torch.zeros(1, 4, dtype=torch.bool), torch.tensor([[-1, 2, -1]]))
    assert found.tolist() == [[False, False, True, False]]


def test_rewards_are_positive() -> None:
    for name in REWARDS:
        env = HyperGrid(2, 16, name)
        assert (env.reward(env.all_states()) > 0).all()
