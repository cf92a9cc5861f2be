"""Exact numbers: flows, backward paths, relabelling, KL, priorities, strings, success."""

import math
from itertools import product

import pytest
import torch

from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import exact_log_flows
from common.gfn.hypergrid import HyperGrid
from common.gfn.sampling import Trajectories, sample, sample_backward, uniforms
from common.stacked import seed_generators
from papers.rbs import method
from papers.rbs.baselines import exploration, greedy_log_policy, q_loss, relabel
from papers.rbs.environments import MergedStrings, Peptides, SetEnv
from papers.rbs.method import AgeReplay, GoalConditioned, Outputs, SumTree, goal_loss, stratified
from papers.rbs.networks import GoalNetwork, distinct
from papers.rbs.success import Policies, grid_success, string_success
from papers.rbs.task import Task

GRID = HyperGrid(2, 4)
GOAL = torch.tensor([2, 1])
RIGHT, UP, STOP = 0, 1, 2


def goal_dag(goal: torch.Tensor, log_C: float = 0.0) -> EnumeratedDAG:
    dag = GRID.dag()
    dag.log_reward = torch.full_like(dag.log_reward, -torch.inf)
    dag.log_reward[GRID.index(goal)] = log_C
    return dag


def exact_outputs(
    env: GoalConditioned, traj: Trajectories, log_C: float = 0.0
) -> tuple[Outputs, torch.Tensor]:
    """The exact uniform-P_B solution at the distinct states of trajectories to any goals."""
    states, at = distinct(traj.states, GRID.height)
    logits = torch.full((*states.shape[:2], 3), -1e6, dtype=torch.float64)
    flow = torch.full(states.shape[:2], -1e6, dtype=torch.float64)
    for s, u in product(*map(range, states.shape[:2])):
        state, goal = states[s, u, :2], states[s, u, 2:]
        log_flow, log_edge = exact_log_flows(goal_dag(goal, log_C))
        row = GRID.index(state)
        if torch.isfinite(log_flow[row]):
            flow[s, u] = log_flow[row]
            logits[s, u] = (log_edge[row] - log_flow[row]).clamp(min=-1e6)
    return Outputs(states, at, logits, None, flow), flow


def synthesis(n: int, goal: torch.Tensor = GOAL, seed: int = 0) -> Trajectories:
    env = GoalConditioned(GRID, goal.expand(1, n, 2))
    u = uniforms(seed_generators((seed,), 1), (env.max_length, n))
    return method.retrospective_backward_synthesis(env, u, None)


def test_exact_flows_of_a_goal() -> None:  # oracle 1
    log_flow, log_edge = exact_log_flows(goal_dag(GOAL))
    flow = log_flow.exp().view(4, 4)
    wanted = {(0, 0): 1, (1, 0): 0.75, (0, 1): 0.25, (2, 0): 0.5, (1, 1): 0.5, (2, 1): 1}
    for (x, y), value in wanted.items():
        assert flow[x, y].item() == pytest.approx(value)
    assert flow.sum().item() == pytest.approx(sum(wanted.values()))  # 0 off the cone
    policy = (log_edge - log_flow.unsqueeze(-1)).exp().view(4, 4, 3)
    assert policy[0, 0].tolist() == pytest.approx([0.75, 0.25, 0])
    assert policy[1, 0].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert policy[2, 1].tolist() == pytest.approx([0, 0, 1])


@pytest.mark.parametrize("log_C", [0.0, 92.1])
@pytest.mark.parametrize("objective", ["db", "stb"])
def test_exact_solution_has_no_loss(objective: str, log_C: float) -> None:  # oracle 1
    traj = synthesis(12)
    env = GoalConditioned(GRID, GOAL.expand(1, 12, 2), log_C)
    out, flow = exact_outputs(env, traj, log_C)
    loss, _ = goal_loss(env, out, traj, objective=objective)
    assert float(loss) < 1e-9
    out.log_flow = flow + 0.1  # all flows off by a constant: only the reward notices
    loss, _ = goal_loss(env, out, traj, objective=objective)
    assert float(loss) > 1e-4
    # without the constant in the reward the flows of log C are wrong
    wrong, _ = goal_loss(
        GoalConditioned(GRID, env.goals, log_C + 1), Outputs(*vars(out).values()), traj
    )
    assert float(wrong) > 1e-3


def test_exact_success_is_one() -> None:
    task = Task("g6", (0,))
    cells = task.listed
    log_pf = {}
    dag = task.env.dag()
    for goal in cells:
        one = task.env.dag()
        one.log_reward = torch.full_like(dag.log_reward, -torch.inf)
        one.log_reward[task.env.index(goal)] = 0.0
        log_flow, log_edge = exact_log_flows(one)
        log_pf[tuple(goal.tolist())] = torch.nan_to_num(log_edge - log_flow.unsqueeze(-1), nan=-1e9)

    def policy(states: torch.Tensor) -> Policies:
        rows = [log_pf[tuple(s[2:].tolist())][task.env.index(s[:2])] for s in states]
        uniform = torch.log_softmax(torch.zeros(len(states), 2, dtype=torch.float64), -1)
        mask = task.env.backward_mask(states[:, :2])
        back = torch.log_softmax(uniform.masked_fill(~mask, -1e9), -1)
        return Policies(torch.stack(rows).unsqueeze(0), back.unsqueeze(0), torch.zeros(1))

    result = grid_success(task, policy, cells)
    assert torch.allclose(result.success, torch.ones(1, 36, dtype=torch.float64))
    # uniform P_B: every state with two predecessors has entropy log 2
    assert float(result.entropy) == pytest.approx(math.log(2))


def test_success_of_the_uniform_policy() -> None:
    """By hand on 2x2: (0,0) 1/3; (1,0) and (0,1) 1/3 1/2; (1,1) 2 (1/3 1/2)."""
    task = Task("g6", (0,))
    task.env = HyperGrid(2, 2)
    goals = task.env.all_states()

    def policy(states: torch.Tensor) -> Policies:
        mask = task.env.forward_mask(states[:, :2])
        pf = torch.log_softmax(torch.zeros(mask.shape).masked_fill(~mask, -1e9), -1)
        mask = task.env.backward_mask(states[:, :2])
        pb = torch.log_softmax(torch.zeros(mask.shape).masked_fill(~mask, -1e9), -1)
        return Policies(pf.unsqueeze(0), pb.unsqueeze(0), torch.zeros(1))

    result = grid_success(task, policy, goals)
    assert result.success[0].tolist() == pytest.approx([1 / 3, 1 / 6, 1 / 6, 1 / 3], rel=1e-6)


def test_synthesised_trajectories_are_successes() -> None:  # oracles 2, 4
    rng = torch.Generator().manual_seed(0)
    goals = torch.randint(4, (2, 40, 2), generator=rng)
    goals[0, 0] = 0
    env = GoalConditioned(GRID, goals)
    net = GoalNetwork(
        seed_generators((0, 1), 0), n_places=2, n_values=4, n_actions=3, n_backward=2, trunk=(8, 8)
    )
    u = uniforms(seed_generators((0, 1), 1), (env.max_length, 40))
    traj = method.retrospective_backward_synthesis(env, u, net.backward_logits)
    assert env.success(traj.last).all()
    assert (traj.states[:, :, 0, :2] == 0).all()
    assert (traj.length == goals.sum(-1) + 1).all()
    assert (traj.states[..., 2:] == goals.unsqueeze(2)).all()
    assert traj.length[0, 0] == 1 and traj.actions[0, 0, 0] == STOP
    # forward replay of the actions gives the states, by allowed moves only
    state = traj.states[:, :, 0]
    for t in range(traj.actions.shape[-1]):
        action, taken = traj.actions[..., t], traj.mask[..., t]
        allowed = env.forward_mask(state).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        assert allowed[taken].all()
        state = torch.where(taken.unsqueeze(-1), env.step(state, action), state)
        assert torch.equal(state, traj.states[:, :, t + 1])


def words(traj: Trajectories) -> dict[str, float]:
    rows = ["".join("RU"[a] for a in path if a != STOP) for path in traj.actions[0].tolist()]
    return {w: rows.count(w) / len(rows) for w in set(rows)}


def test_backward_path_distribution() -> None:  # oracle 3
    share = words(synthesis(8000))
    assert set(share) == {"RRU", "RUR", "URR"}
    assert share["RRU"] == pytest.approx(0.5, abs=0.02)
    assert share["RUR"] == pytest.approx(0.25, abs=0.02)


def test_forward_paths_of_the_solution_are_those_of_the_backward_policy() -> None:
    """What tells a flow from an imitation: P_F's path distribution is P_B's (oracle 3)."""
    log_flow, log_edge = exact_log_flows(goal_dag(GOAL))
    pf = (log_edge - log_flow.unsqueeze(-1)).exp()
    chance = {}
    for word in ("RRU", "RUR", "URR"):
        state, p = torch.zeros(2, dtype=torch.long), 1.0
        for letter in word:
            p *= float(pf[GRID.index(state), "RU".index(letter)])
            state = GRID.step(state, torch.tensor("RU".index(letter)))
        chance[word] = p * float(pf[GRID.index(state), STOP])
    assert chance == pytest.approx({"RRU": 0.5, "RUR": 0.25, "URR": 0.25})


def test_policy_of_the_backward_walk_is_used() -> None:
    """A policy that always undoes 'right' first gives the word U..UR..R, and P_B is masked."""
    env = GoalConditioned(GRID, GOAL.expand(1, 20, 2))
    u = uniforms(seed_generators((0,), 1), (env.max_length, 20))
    traj = sample_backward(
        env,
        torch.cat([env.goals, env.goals], -1),
        u.transpose(0, 1),
        lambda s: torch.tensor([50.0, 0.0]).expand(*s.shape[:-1], 2),
    )
    assert words(traj) == {"URR": 1.0}


def test_relabelling_changes_goals_and_reward_only() -> None:  # oracle 5
    rng = seed_generators((0, 1), 3)
    env = GoalConditioned(GRID, torch.full((2, 30, 2), 3))
    u = uniforms(rng, (env.max_length, 30))
    traj = sample(env, lambda s: torch.zeros(*s.shape[:-1], 3), u)
    assert not env.success(traj.last).all()
    new = relabel(traj, env)
    assert env.success(new.last).all()
    assert torch.equal(new.states[..., :2], traj.states[..., :2])
    reached = traj.last[..., :2].unsqueeze(2)
    assert (new.states[..., 2:] == reached).all()  # at every step
    assert torch.equal(new.actions, traj.actions) and torch.equal(new.mask, traj.mask)
    # held-out objects keep the original goal
    allowed = traj.last[..., 0] > 0
    some = relabel(traj, env, allowed)
    assert torch.equal(some.states[~allowed], traj.states[~allowed])
    assert torch.equal(some.states[allowed], new.states[allowed])


def test_intensified_reward_in_log_space() -> None:
    yes, no = torch.tensor(True), torch.tensor(False)
    assert float(method.log_goal_reward(yes, 40 * math.log(10))) == pytest.approx(92.10340)
    assert float(method.log_goal_reward(no, 40 * math.log(10))) == pytest.approx(math.log(1e-9))
    assert float(method.log_goal_reward(yes, 0.0)) == pytest.approx(math.log(1 + 1e-9), abs=1e-12)
    assert torch.tensor(1e40, dtype=torch.float32).isinf()  # what forming C would give


def test_divergence_from_uniform() -> None:  # oracle 7
    mask = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    logits = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.0, 0.0], [math.log(3.0), 0.0]])
    logits.requires_grad_()
    log_pb = torch.log_softmax(logits.masked_fill(~mask, -1e9), -1)
    kl, counts = method.uniform_divergence(log_pb, mask)
    assert counts.tolist() == [True, False, False, True]
    wanted = 0.5 * (math.log(0.5 / 0.75) + math.log(0.5 / 0.25))
    assert kl.tolist() == pytest.approx([0, 0, 0, wanted], abs=1e-6)
    (grad,) = torch.autograd.grad(kl.sum(), logits)
    assert torch.isfinite(grad).all() and (grad[3] != 0).all() and not grad[1:3].any()


def test_divergence_of_the_authors_code_is_another() -> None:
    """Uniform over *all* actions on masked log-probabilities: 5e8 at every border state."""
    mask = torch.tensor([[True, False]])
    log_pb = torch.log_softmax(torch.zeros(1, 2).masked_fill(~mask, -1e9), -1)
    target = torch.softmax(torch.ones(1, 2), -1)
    theirs = torch.nn.functional.kl_div(log_pb, target, reduction="sum")
    assert 4e8 < float(theirs) < 6e8
    assert float(method.uniform_divergence(log_pb, mask)[0]) == 0.0


def test_regulariser_reaches_the_backward_head_only() -> None:
    """... and the trunk; not P_F's head, not log F."""
    net = GoalNetwork(
        seed_generators((0,), 0), n_places=2, n_values=4, n_actions=3, n_backward=2, trunk=(8, 8)
    )
    states = torch.tensor([[[2, 2, 3, 3], [1, 3, 3, 3]]])
    _, logits_b, _ = net(states)
    mask = GRID.backward_mask(states[..., :2])
    kl, _ = method.uniform_divergence(torch.log_softmax(logits_b, -1), mask)
    kl.sum().backward()
    assert all(p.grad is None for p in net.forward_head.parameters())
    assert all(p.grad.abs().sum() > 0 for p in net.backward_head.parameters())
    assert net.trunk.layers[0].weight.grad.abs().sum() > 0


def coverage(kind: str, n: int = 1000, batch: int = 100, draws: int = 10) -> float:
    """Share of 1000 new items that ten draws have met; mean of 20 repetitions."""
    rng = torch.Generator().manual_seed(0)
    tree = SumTree(20, n)
    tree.set(torch.arange(n).expand(20, -1), method.NEW)
    seen = torch.zeros(20, n, dtype=torch.bool)
    for _ in range(draws):
        u = torch.rand(20, batch, generator=rng)
        mass = stratified(u, tree.total)
        if kind != "stratified":
            mass = u.double() * tree.total.unsqueeze(-1)
        items = tree.find(mass)
        seen.scatter_(1, items, True)
        if kind != "uniform":
            tree.set(items, method.USED)
    return float(seen.float().mean())


def test_age_based_draws_are_stratified() -> None:  # oracle 8
    assert method.USED == pytest.approx(1e-3)
    assert coverage("stratified") == pytest.approx(0.985, abs=0.005)
    assert coverage("independent") == pytest.approx(0.90, abs=0.01)  # the same priorities
    assert coverage("uniform") == pytest.approx(0.63, abs=0.01)


def test_sum_tree_against_cumulative_sums() -> None:
    rng = torch.Generator().manual_seed(1)
    tree = SumTree(2, 13)
    for _ in range(40):
        items = torch.randint(13, (2, 3), generator=rng)
        tree.set(items, float(torch.rand(1, generator=rng)) + 0.01)
    assert torch.allclose(tree.total, tree.leaves.sum(-1))
    mass = torch.rand(2, 500, generator=rng).double() * tree.total.unsqueeze(-1)
    found = torch.searchsorted(tree.leaves.cumsum(-1), mass, right=True)
    assert torch.equal(tree.find(mass), found)


def test_replay_returns_what_was_added() -> None:
    goals = torch.randint(4, (2, 6, 2), generator=torch.Generator().manual_seed(5))
    env = GoalConditioned(GRID, goals)
    rng = seed_generators((0, 1), 3)
    u = uniforms(rng, (env.max_length, 6))
    forward = sample(env, lambda s: torch.zeros(*s.shape[:-1], 3), u)
    backward = method.retrospective_backward_synthesis(env, u, None)
    replay = AgeReplay(2, 4, env)  # smaller than what comes: the oldest make room
    for part in (slice(0, 3), slice(3, 6)):
        streams = [
            Trajectories(t.states[:, part], t.actions[:, part], t.mask[:, part], t.last[:, part])
            for t in (forward, backward)
        ]
        replay.add(*streams)
    batch = replay.get(torch.tensor([[0, 3], [1, 2]]))  # items 4, 3 and 5, 2
    for s, stream, i, item in ((0, 0, 0, 4), (0, 1, 1, 3), (1, 0, 0, 5), (1, 1, 1, 2)):
        wanted = (forward, backward)[stream]
        row = 2 * stream + i
        n = int(wanted.length[s, item])
        assert torch.equal(batch.states[s, row, : n + 1], wanted.states[s, item, : n + 1])
        assert torch.equal(batch.actions[s, row, :n], wanted.actions[s, item, :n])
        assert int(batch.length[s, row]) == n
        assert torch.equal(batch.last[s, row], wanted.last[s, item])
    # pairs share the goal
    assert torch.equal(batch.states[:, :2, 0, 2:], batch.states[:, 2:, 0, 2:])


def test_merged_strings() -> None:  # oracle 9
    env = MergedStrings(3, 4)

    def word(*letters: int) -> torch.Tensor:
        return torch.tensor([*letters, *[4] * (3 - len(letters))])

    assert int(env.forward_mask(word(0, 0)).sum()) == 7
    assert env.backward_mask(word(0, 0)).tolist() == [True, False]
    assert int(env.forward_mask(word(0, 1)).sum()) == 8
    assert env.backward_mask(word(0, 1)).tolist() == [True, True]
    assert int(env.forward_mask(word()).sum()) == 4
    assert not env.backward_mask(word()).any() and not env.forward_mask(word(0, 1, 2)).any()
    # no two allowed actions lead to the same string, and every in-edge has its backward action
    for state in (word(), word(2), word(1, 1), word(3, 0)):
        actions = env.forward_mask(state).nonzero().squeeze(-1)
        after = env.step(state.expand(len(actions), -1), actions)
        assert len(after.unique(dim=0)) == len(actions)
        back = env.backward_action(actions)
        assert env.backward_mask(after).gather(-1, back.unsqueeze(-1)).all()
        assert (env.backward_step(after, back) == state).all()
        assert (env.forward_action(after, back) == actions).all()


@pytest.mark.parametrize("kind", [MergedStrings, Peptides])
def test_string_success_against_enumeration(kind: type) -> None:
    """Windows of the goal give the same probability as all action sequences that end in it."""
    env = kind(4, 2)
    task = Task("b12", (0,))
    task.env = env
    rng = torch.Generator().manual_seed(0)
    table = torch.randn(3**4, env.n_actions, generator=rng, dtype=torch.float64)

    def log_pf(states: torch.Tensor) -> torch.Tensor:
        row = (states * 3 ** torch.arange(4)).sum(-1)
        return torch.log_softmax(table[row].masked_fill(~env.forward_mask(states), -1e9), -1)

    def policy(states: torch.Tensor) -> Policies:
        log_pb = torch.zeros(1, len(states), 2)  # not what is asked here
        return Policies(log_pf(states[:, :4]).unsqueeze(0), log_pb, torch.zeros(1))

    goals = [[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1]]
    if kind is Peptides:
        goals += [[0, 1, 2, 2], [1, 2, 2, 2], [0, 0, 2, 2]]
    ours = string_success(task, policy, torch.tensor(goals)).success[0]
    # push the whole distribution forwards, string by string
    ended: dict[tuple, float] = {}
    here = {tuple([2] * 4): 1.0}
    for _ in range(env.max_length):
        after: dict[tuple, float] = {}
        for string, p in here.items():
            state = torch.tensor(string)
            for a in env.forward_mask(state).nonzero().squeeze(-1).tolist():
                q = p * float(log_pf(state)[a].exp())
                new = tuple(env.step(state, torch.tensor(a)).tolist())
                over = a == env.stop if kind is Peptides else 2 not in new
                bucket = ended if over else after
                bucket[new] = bucket.get(new, 0.0) + q
        here = after
    assert sum(ended.values()) == pytest.approx(1.0)
    assert ours.tolist() == pytest.approx([ended[tuple(g)] for g in goals], rel=1e-6)


@pytest.mark.parametrize(("full", "wanted"), [(0.5, math.log(2)), (0.75, None)])
def test_entropy_of_the_backward_policy_on_words(full: float, wanted: float | None) -> None:
    """Word aab: two ends at aab (P_B of removing the last: ``full``) and at ab, one end at aa."""
    task = Task("b12", (0,))
    env = task.env = MergedStrings(3, 4)

    def policy(states: torch.Tensor) -> Policies:
        word = states[:, :3]
        mask = env.backward_mask(word)
        log_pb = torch.log_softmax(torch.zeros(mask.shape).masked_fill(~mask, -1e9), -1)
        complete = (word != env.empty).all(-1)
        log_pb[complete] = torch.tensor([full, 1 - full]).log()
        pf = torch.zeros(1, len(states), env.n_actions) - math.log(env.n_actions)
        return Policies(pf, log_pb.unsqueeze(0), torch.zeros(1))

    found = string_success(task, policy, torch.tensor([[0, 0, 1]])).entropy
    at_aab = -(full * math.log(full) + (1 - full) * math.log(1 - full))
    assert wanted is None or at_aab == pytest.approx(wanted)
    mean = (at_aab + (1 - full) * math.log(2)) / (1 + (1 - full))  # ab: the first was removed
    assert float(found) == pytest.approx(mean, rel=1e-6)


def test_sets_are_synthesised() -> None:
    env = SetEnv(6, 3)
    goals = torch.tensor([[[1, 0, 1, 0, 0, 1], [0, 1, 1, 1, 0, 0]]])
    goal_env = GoalConditioned(env, goals)
    u = uniforms(seed_generators((0,), 1), (3, 2))
    traj = method.retrospective_backward_synthesis(goal_env, u, None)
    assert (traj.states[:, :, 0, :6] == 0).all() and goal_env.success(traj.last).all()
    assert traj.mask.all() and sorted(traj.actions[0, 0].tolist()) == [0, 2, 5]


def test_distinct_states() -> None:
    rng = torch.Generator().manual_seed(0)
    for n_values, n_places in ((3, 4), (40, 14)):  # the second does not fit into an integer
        states = torch.randint(min(n_values, 3), (2, 5, 7, n_places), generator=rng)
        states[..., 4:] = 0
        packed, at = distinct(states, n_values)
        for s in range(2):
            assert torch.equal(packed[s][at[s]], states[s])
            assert int(at[s].max()) + 1 == len(states[s].flatten(0, 1).unique(dim=0))


def test_q_learning_targets() -> None:
    """Reward 1 for stopping in the goal, else the discounted best value after the move."""
    env = GoalConditioned(GRID, GOAL.expand(1, 1, 2))
    traj = synthesis(1)
    states, at = distinct(traj.states, 4)
    q = torch.zeros(1, states.shape[1], 3, requires_grad=True)
    target = torch.full_like(q, 0.5)
    loss = q_loss(env, states, at, q, target, traj, gamma=0.9)
    assert loss.item() == pytest.approx((3 * 0.45**2 + 1) / 4)
    failed = relabel(traj, env)
    failed.states[..., 2:] = 0  # a goal that it does not reach
    failed.last[..., 2:] = 0
    loss = q_loss(env, states, at, q, target, failed, gamma=0.9)
    assert loss.item() == pytest.approx(3 * 0.45**2 / 4)
    mask = torch.tensor([True, False, True])
    assert greedy_log_policy(torch.tensor([1.0, 9.0, 2.0]), mask).tolist() == [-1e9, -1e9, 0.0]
    assert [exploration(s, 100) for s in (0, 25, 50, 100)] == pytest.approx([1, 0.525, 0.05, 0.05])


def test_stored_actions_are_the_executed_ones() -> None:
    """The authors' grid code replaces an action and stores the intended one (about 0.5 % wrong)."""
    goals = torch.full((1, 400, 2), 3)
    env = GoalConditioned(GRID, goals)
    u = uniforms(seed_generators((0,), 1), (env.max_length, 400))
    logits = torch.tensor([9.0, 0.0, -9.0])  # right, right, ...
    traj = sample(env, lambda s: logits.expand(*s.shape[:-1], 3), u, epsilon=0.2)

    def wrong_edges(actions: torch.Tensor) -> int:
        after = env.step(traj.states[:, :, :-1], actions)
        return int(((after != traj.states[:, :, 1:]).any(-1) & traj.mask).sum())

    assert wrong_edges(traj.actions) == 0
    allowed = env.forward_mask(traj.states[:, :, :-1])
    intended = logits.expand(allowed.shape).masked_fill(~allowed, -1e9).argmax(-1)
    assert wrong_edges(intended) > 50  # what storing the intention would put into the buffer
