"""Exact facts about the evolution operators, the buffer, the environment and the star's loss."""

import itertools

import numpy as np
import pytest
import torch

from common.gfn.coordinates import sample_states
from common.gfn.dag import EnumeratedDAG
from common.gfn.hypergrid import HyperGrid
from common.gfn.nets import StackedMLP
from common.gfn.objectives import training_pairs
from common.gfn.sampling import Trajectories, uniforms
from common.stacked import seed_generators
from papers.egfn import star
from papers.egfn.baselines import renew
from papers.egfn.method import (
    Evolution,
    PrioritisedReplay,
    combined_loss,
    crossover,
    evolve,
    fitness,
    mutate,
    mutate_weights,
    plan_evolution,
    polluted_fitness,
    tournament,
)
from papers.egfn.task import (
    AMINO_ACIDS,
    CHAIN,
    GRIDS,
    N_POSITIONS,
    GridSpec,
    Instability,
    ab10_env,
)


def population(n: int, seed: int = 0) -> list[torch.Tensor]:
    """Weights and biases of n small agents."""
    net = StackedMLP(seed_generators(range(n), seed), (6, 5, 4))
    return [x.detach().clone() for layer in net.weights() for x in layer]


def agent(tensors: list[torch.Tensor], k: int) -> torch.Tensor:
    return torch.cat([x[k].flatten() for x in tensors])


def randomness(n_seeds: int, seed: int = 0) -> tuple[list[np.random.Generator], list]:
    return [np.random.default_rng((seed, s)) for s in range(n_seeds)], seed_generators(
        range(n_seeds), seed
    )


# -- selection -------------------------------------------------------------------------------------


def test_tournament_probabilities() -> None:
    ranks = np.array(tournament(5, 200_000, 4, np.random.default_rng(0)))
    share = np.bincount(ranks, minlength=5) / len(ranks)
    expected = [((5 - r) ** 4 - (4 - r) ** 4) / 5**4 for r in range(5)]
    assert expected == pytest.approx([0.5904, 0.28, 0.104, 0.024, 0.0016])
    assert np.abs(share - expected).max() < 0.005


def test_share_of_slots_by_origin() -> None:
    rng, count = np.random.default_rng(1), np.zeros(5)
    scores = np.array([3.0, 5.0, 1.0, 4.0, 2.0])
    rank = {1: 0, 3: 1, 0: 2, 4: 3, 2: 4}
    n = 20_000
    for _ in range(n):
        plan = plan_evolution(scores, Evolution(), rng)
        origin = list(range(5))
        for slot, source in plan.copies:
            origin[slot] = source
        for i, j, a, b in plan.fills:
            origin[i], origin[j] = a, b
        for source in origin:
            count[rank[source]] += 1
    assert np.abs(count / (5 * n) - [0.482, 0.447, 0.056, 0.014, 0.001]).max() < 0.005


def test_without_noise_and_crossover_agents_are_copies() -> None:
    evo = Evolution(crossover=0.0, fill_crossover=False, strength=0.0)
    rngs, generators = randomness(3)
    tensors = population(15)
    for step in range(20):
        before = [agent(tensors, k) for k in range(15)]
        scores = torch.rand(3, 5, generator=torch.Generator().manual_seed(step))
        evolve(tensors, scores, evo, rngs, generators)
        for k in range(15):
            of_same_seed = before[k // 5 * 5 : k // 5 * 5 + 5]
            assert any(torch.equal(agent(tensors, k), b) for b in of_same_seed)


@pytest.mark.parametrize(("n_agents", "n_elites"), [(5, 2), (5, 1), (4, 2), (6, 3), (10, 2)])
def test_elites_survive_unchanged(n_agents: int, n_elites: int) -> None:
    evo = Evolution(n_agents=n_agents, n_elites=n_elites, crossover=1.0, strength=5.0)
    rngs, generators = randomness(2)
    tensors = population(2 * n_agents)
    for step in range(60):
        before = [agent(tensors, k) for k in range(2 * n_agents)]
        scores = torch.rand(2, n_agents, generator=torch.Generator().manual_seed(step))
        plans = evolve(tensors, scores, evo, rngs, generators)
        for s, plan in enumerate(plans):
            touched = {*itertools.chain(*plan.crossings), *(i for f in plan.fills for i in f[:2])}
            assert not touched & set(plan.protected)
            best = scores[s].argsort(descending=True)[:n_elites].tolist()
            assert sorted(source for _, source in plan.copies) == sorted(best)
            for slot, source in plan.copies:
                old, new = before[s * n_agents + source], agent(tensors, s * n_agents + slot)
                assert torch.equal(old, new)


def test_old_slots_of_elites_are_mutated() -> None:
    """Protected is the copy, not the slot that the elite had."""
    evo = Evolution(mutation=1.0)
    rngs, generators = randomness(1)
    tensors = population(5)
    changed = 0
    for _ in range(30):
        before = agent(tensors, 0)
        (plan,) = evolve(tensors, torch.tensor([[5.0, 4, 3, 2, 1]]), evo, rngs, generators)
        if 0 not in plan.protected:
            assert not torch.equal(agent(tensors, 0), before)
            changed += 1
    assert changed > 20


def test_offspring_are_unique_where_the_authors_code_keeps_repeats() -> None:
    drawn = [torch.tensor(1), torch.tensor(1), torch.tensor(3)]
    assert len(set(drawn)) == 3  # 0-d tensors hash by identity: nothing is removed
    rng = np.random.default_rng(0)
    for _ in range(300):
        plan = plan_evolution(np.arange(10.0), Evolution(n_agents=10, crossover=1.0), rng)
        slots = list(itertools.chain(*plan.crossings))
        assert len(slots) - len(set(slots)) <= 1  # one repeat may even out the list


def test_feedback_overwrites_the_worst_agent() -> None:
    rngs, generators = randomness(1)
    tensors, theirs = population(5), population(1, seed=9)
    kept = [x.clone() for x in theirs]
    scores = torch.tensor([[5.0, 4, 3, 2, 1]])
    (plan,) = evolve(tensors, scores, Evolution(), rngs, generators, star=theirs)
    same = [torch.equal(agent(tensors, k), agent(theirs, 0)) for k in range(5)]
    worst = next(k for k in (4, 3, 2, 1, 0) if k not in plan.protected)
    assert [k for k, equal in enumerate(same) if equal] == [worst]
    assert all(torch.equal(a, b) for a, b in zip(theirs, kept, strict=True))


# -- crossover and mutation ------------------------------------------------------------------------


def test_crossover_keeps_rows_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    changed = [0, 0]
    for _ in range(200):
        a = [torch.zeros(7, 12), torch.zeros(1, 12)]
        b = [torch.ones(7, 12), torch.ones(1, 12)]
        crossover(a, b, generator)
        for x, y in zip(a, b, strict=True):
            assert ((x == x[0]).all() and (y == y[0]).all()) and x.shape == y.shape
        changed[0] += bool(a[0].any())
        changed[1] += not bool(b[0].all())
    assert min(changed) > 100


def test_crossover_is_the_row_by_row_rule() -> None:
    """Share of rows that end as b's in a, and as equal in both: against the rule's plain loop."""
    rng, n, repeats = np.random.default_rng(0), 10, 6000
    taken = equal = 0
    for _ in range(repeats):
        a, b = [0] * n, [1] * n
        for _ in range(rng.integers(n)):
            row = rng.integers(n)
            if rng.random() < 0.5:
                a[row] = b[row]
            else:
                b[row] = a[row]
        taken += sum(a)
        equal += sum(x == y for x, y in zip(a, b, strict=True))
    generator = torch.Generator().manual_seed(0)
    ours_taken = ours_equal = 0.0
    for _ in range(repeats):
        x, y = torch.zeros(2, n), torch.ones(2, n)
        crossover([x], [y], generator)
        ours_taken += float(x[0].sum())
        ours_equal += float((x[0] == y[0]).sum())
    assert ours_taken / repeats == pytest.approx(taken / repeats, abs=0.12)
    assert ours_equal / repeats == pytest.approx(equal / repeats, abs=0.12)


@pytest.mark.parametrize("strength", [1.0, 5.0])
def test_mutation(strength: float) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.zeros(20, 10) for _ in range(2000)]
    mutate(tensors, generator, strength=strength)
    changed = [x for x in tensors if x.any()]
    assert len(changed) / 2000 == pytest.approx(0.9, abs=0.02)
    noise = torch.stack(changed)
    assert float(noise.std()) == pytest.approx(strength, rel=0.01)
    assert noise.shape[1:] == (20, 10) and noise.dtype == torch.float32
    assert (noise != 0).all()  # every entry of a chosen tensor


def test_mutation_of_single_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(300):
        x = torch.ones(20, 10)
        mutate_weights([x], generator)
        shares.append(float((x != 1).float().mean()))
    assert max(shares) < 0.101 and np.mean(shares) == pytest.approx(0.05, abs=0.01)


def test_renewed_agents_look_like_new_ones() -> None:
    net = StackedMLP(seed_generators(range(6), 0), (16, 8, 4))
    before = [x.clone() for x in net.parameters()]
    renew(net, seed_generators(range(2), 3))
    for old, new in zip(before, net.parameters(), strict=True):
        assert not torch.equal(old, new)
        assert new.abs().max() <= (16 if new.shape[-1] == 8 else 8) ** -0.5
    renew(net, seed_generators(range(2), 3), Evolution(mutation=1.0))
    noise = torch.cat([x.detach().flatten() for x in net.parameters()])
    assert float(noise.std()) == pytest.approx(1.0, abs=0.1)


# -- fitness ---------------------------------------------------------------------------------------


def test_fitness_is_of_the_own_episodes() -> None:
    own = torch.tensor([[[2.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]])
    assert torch.equal(fitness(own), torch.tensor([[1.0, 0.5]]))
    # the authors' code: 16 replayed rewards each are added, and decide
    replayed = torch.tensor([[[0.5] * 16, [2.5] * 16]])
    polluted = polluted_fitness(own, replayed)
    assert torch.equal(polluted, torch.tensor([[3.0, 10.5]]))
    assert polluted.argmax() != fitness(own).argmax()


# -- buffer ----------------------------------------------------------------------------------------


def walks(rewards: torch.Tensor) -> Trajectories:
    """Trajectories [S, B] of two steps whose object is their number."""
    n_seeds, batch = rewards.shape
    number = torch.arange(batch).expand(n_seeds, -1)
    states = torch.zeros(n_seeds, batch, 3, 1, dtype=torch.long)
    states[:, :, 1:, 0] = number.unsqueeze(-1)
    return Trajectories(
        states=states,
        actions=torch.ones(n_seeds, batch, 2, dtype=torch.long),
        mask=torch.ones(n_seeds, batch, 2, dtype=torch.bool),
        last=states[:, :, -1],
    )


def test_buffer_keeps_the_best_in_order() -> None:
    rewards = torch.rand(2, 2000, generator=torch.Generator().manual_seed(0)).double()
    buffer = PrioritisedReplay(2, 1000, 4, (1,))
    traj = walks(rewards)
    for part in torch.arange(2000).split(30):
        buffer.insert(
            Trajectories(*(x[:, part] for x in (traj.states, traj.actions, traj.mask, traj.last))),
            rewards[:, part],
        )
    for s in range(2):
        held = buffer.reward[s, buffer.order[s]]
        assert np.array_equal(held, np.sort(rewards[s].numpy())[-1000:])
        numbers = buffer.objects(s)[:, 0]
        assert np.array_equal(rewards[s].numpy()[numbers], held)  # with their trajectories
    rngs = [np.random.default_rng(s) for s in range(2)]
    position = np.zeros((2, 1000), int)
    for s in range(2):
        position[s, buffer.order[s]] = np.arange(1000)
    seen = np.zeros(1000)
    for _ in range(500):
        places = buffer.draw(rngs, 16)
        at = np.take_along_axis(position, places, 1)
        assert ((at >= 900).sum(1) == 8).all()
        seen += np.bincount(at.ravel(), minlength=1000)
    assert (seen > 0).all()  # 500 draws of 16 for two seeds reach every position
    drawn = buffer.trajectories(buffer.draw(rngs, 16))
    assert drawn.states.shape == (2, 16, 3, 1) and (drawn.length == 2).all()


def test_buffer_freezes_at_equal_rewards_unless_ties_replace() -> None:
    first = walks(torch.full((1, 10), 2.5).double())
    later = walks(torch.full((1, 4), 2.5).double())
    later.states += 100
    held = {}
    for ties in ("keep", "replace"):
        buffer = PrioritisedReplay(1, 10, 4, (1,), ties=ties)
        buffer.insert(first, torch.full((1, 10), 2.5).double())
        buffer.insert(later, torch.full((1, 4), 2.5).double())
        held[ties] = sorted(buffer.objects(0)[:, 0].tolist())
    assert held["keep"] == list(range(10))
    assert held["replace"] == [*range(4, 10), 100, 101, 102, 103]


def test_plain_and_proportional_buffers() -> None:
    rewards = torch.arange(20).double().view(1, 20)
    plain = PrioritisedReplay(1, 8, 4, (1,), rule="newest")
    plain.insert(walks(rewards.flip(1)), rewards.flip(1))
    assert plain.objects(0)[:, 0].tolist() == list(range(12, 20))
    share = PrioritisedReplay(1, 8, 4, (1,), rule="reward")
    share.insert(walks(rewards), rewards)
    drawn = share.rewards(share.draw([np.random.default_rng(0)], 40_000))
    expected = float((rewards[0, 12:] ** 2).sum() / rewards[0, 12:].sum())
    assert float(drawn.mean()) == pytest.approx(expected, rel=0.01)


def test_a_young_buffer_can_be_drawn_from() -> None:
    buffer = PrioritisedReplay(1, 100, 4, (1,))
    for n in range(1, 30):
        buffer.insert(walks(torch.full((1, 1), float(n)).double()), torch.full((1, 1), float(n)))
        places = buffer.draw([np.random.default_rng(0)], 16)
        assert places.shape == (1, 16) and places.max() < n


# -- environment -----------------------------------------------------------------------------------


def test_counts_of_the_grids() -> None:
    s, m, large = GRIDS["grid-s"], GRIDS["grid-m"], GRIDS["grid-l"]
    assert [g.n_objects for g in (s, m, large)] == [7942, 157757, 3127704]
    assert [round(g.Z, 4) for g in (s, m, large)] == [614.0794, 5252.0776, 48006.2770]
    assert [round(g.mode_mass, 4) for g in (s, m, large)] == [0.2606, 0.1219, 0.0533]
    assert HyperGrid(5, 20, forced_stop=True).max_length == 91 + 1  # and the stop
    for spec in (s, GridSpec(2, 16, "standard-3"), GridSpec(3, 9, "standard-1")):
        dag = spec.env().dag()
        objects = torch.isfinite(dag.log_reward)
        assert int(objects.sum()) == spec.n_objects
        assert dag.log_reward[objects].exp().sum().item() == pytest.approx(spec.Z, abs=1e-9)
        if spec.ndim == 3:
            in_region = spec.env().is_mode(spec.env().all_states()) & objects
            assert int(in_region.sum()) == spec.n_mode_cells


def test_a_border_state_has_one_parent_and_one_action() -> None:
    env = GRIDS["smoke"].env()
    dag: EnumeratedDAG = env.dag()
    states = env.all_states()
    border = ((states == env.height - 1).sum(-1) == 1) & torch.isfinite(dag.log_reward)
    assert (dag.backward_mask[border].sum(-1) == 1).all()
    assert (dag.forward_mask[border].sum(-1) == 1).all() and dag.forward_mask[border, -1].all()


def test_band_of_height_16_is_symmetric_where_floats_make_it_not() -> None:
    from common.gfn.hypergrid import band_indices

    u = np.abs(np.arange(16) / 15 * 2 - 1)
    in_floats = [int(i) for i in np.flatnonzero((u > 0.6) & (u < 0.8))]
    assert in_floats != [15 - i for i in reversed(in_floats)]
    assert band_indices(16) == [2, 13]


def test_instability_index_is_biopythons() -> None:
    analysis = pytest.importorskip("Bio.SeqUtils.ProtParam").ProteinAnalysis
    index = Instability()
    designs = torch.randint(20, (30, N_POSITIONS), generator=torch.Generator().manual_seed(0))
    own = torch.tensor([[AMINO_ACIDS.index(c) for c in CHAIN[:N_POSITIONS]]])
    assert len(CHAIN) == 120
    for design, value in zip(
        torch.cat([own, designs]), index(torch.cat([own, designs])), strict=True
    ):
        chain = "".join(AMINO_ACIDS[i] for i in design) + CHAIN[N_POSITIONS:]
        assert float(value) == pytest.approx(analysis(chain).instability_index(), abs=1e-9)
    assert index.log_reward(own).exp().item() == pytest.approx(2 ** ((50 - 41.5992) / 10), rel=1e-4)


# -- the star's loss -------------------------------------------------------------------------------

ENVS = {"grid": HyperGrid(3, 6, "sparse-5", forced_stop=True), "strings": ab10_env()}


@pytest.mark.parametrize("objective", ["db", "tb"])
@pytest.mark.parametrize("name", ENVS)
def test_compiled_residuals_and_gradients_equal_the_generic_ones(
    name: str, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = ENVS[name]
    net = star.network(seed_generators((0, 1), 0), env)
    u = uniforms(seed_generators((0, 1), 1), (env.max_length, 8))
    own = sample_states(net, env, u)
    other = sample_states(star.network(seed_generators((5, 6), 0), env), env, u)
    replayed = Trajectories(other.states, other.actions, other.mask, other.last)
    log_Z = torch.tensor([0.3, -0.2])

    def loss_and_gradient() -> tuple[torch.Tensor, list[torch.Tensor]]:
        parts = [star.residual_parts(objective, net, env, t, log_Z) for t in (own, replayed)]
        loss = combined_loss(parts)
        return loss, list(torch.autograd.grad(loss.sum(), list(net.parameters())))

    ours, gradient = loss_and_gradient()
    monkeypatch.setattr(star, "_compiled", lambda net: False)
    generic, expected = loss_and_gradient()
    assert torch.allclose(ours, generic, rtol=1e-4)
    for a, b in zip(gradient, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(1 + b.abs().max()))


def test_the_flow_of_a_state_at_the_border_is_its_reward() -> None:
    env = HyperGrid(2, 4, "sparse-5", forced_stop=True)
    net = star.network(seed_generators((0,), 0), env)
    traj = sample_states(net, env, uniforms(seed_generators((0,), 1), (env.max_length, 64)))
    ((pair, weights),) = star.residual_parts("db", net, env, traj, None)
    forced = (traj.last == env.height - 1).any(-1)
    assert forced.any() and not forced.all()
    length = traj.length
    for b in range(64):
        used = int((weights[0, b] > 0).sum())
        assert used == length[0, b] - int(forced[0, b])
        if forced[0, b]:  # the move onto the border: F(s) P_F against R(x) * 1
            assert pair[1][0, b, used - 1].item() == pytest.approx(
                env.log_reward(traj.last[0, b]).item(), abs=1e-5
            )
    assert weights.sum().item() == pytest.approx(1)


def test_every_object_counts_alike_in_the_combined_loss() -> None:
    env = ENVS["grid"]
    net = star.network(seed_generators((0,), 0), env)
    u = uniforms(seed_generators((0,), 1), (env.max_length, 12))
    traj = sample_states(net, env, u)
    whole = Trajectories(traj.states, traj.actions, traj.mask, traj.last)
    split = [
        Trajectories(*(x[:, part] for x in (whole.states, whole.actions, whole.mask, whole.last)))
        for part in (slice(0, 3), slice(3, 12))
    ]
    for objective in ("db", "tb", "fm"):
        one = combined_loss([star.residual_parts(objective, net, env, whole, torch.zeros(1))])
        two = combined_loss(
            [star.residual_parts(objective, net, env, part, torch.zeros(1)) for part in split]
        )
        assert one.item() == pytest.approx(two.item(), rel=1e-5), objective


def test_fm_replays_a_uniform_walk_back() -> None:
    env = ENVS["grid"]
    assert isinstance(env, HyperGrid)
    objects = torch.tensor([[2, 3, 0], [5, 1, 1], [0, 0, 0]]).repeat(400, 1).unsqueeze(0)
    u = torch.rand(env.max_length, 1, 1200, generator=torch.Generator().manual_seed(0))
    traj = star.walk_back(env, objects, u)
    assert torch.equal(traj.last, objects)
    assert (traj.states[:, :, 0] == 0).all()
    assert torch.equal(traj.length, objects.sum(-1) + 1)
    # only one way onto the border
    at_border = traj.actions[0, 1::3][torch.arange(400), 6]
    assert (at_border == 0).all()
    # of (2, 3, 0) the last move is either coordinate, alike
    last = traj.actions[0, 0::3][:, 4].double()
    assert float(last.mean()) == pytest.approx(0.5, abs=0.08)
    pairs = training_pairs(
        "fm",
        star.visit_states(star.network(seed_generators((0,), 0), env), env, traj, fm=True),
        traj.actions,
        traj.mask,
        stop=env.stop,
    )
    assert all(torch.isfinite(pair[0]).all() for pair, _ in pairs)
