"""Success rate: the probability that a trajectory of P_F(.|s, y) ends exactly in y, per goal.

Exact by dynamic programming wherever the states inside the goal's cone (those from which the goal
can still be reached) are few: cells s <= y of a grid, substrings of a string. Sampled for sets.
No exploration noise, no greedy actions (but DQN's policy is greedy), and stopping counts, not
passing by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.gfn.exact import terminating_distribution
from common.gfn.hypergrid import HyperGrid
from common.gfn.sampling import masked_log_softmax, sample, uniforms
from papers.rbs.baselines import greedy_log_policy
from papers.rbs.environments import MergedStrings, Peptides
from papers.rbs.method import retrospective_backward_synthesis
from papers.rbs.methods import Backward
from papers.rbs.networks import GoalNetwork, backward_logits_of, backward_policy
from papers.rbs.task import Task

ROWS = 40_000  # states per forward pass of the network
CELLS = 4_000_000  # entries of a table of policies at a time


@dataclass
class Policies:
    """What the network says at some states, as probabilities."""

    log_pf: Tensor  # [S, M, A]
    log_pb: Tensor  # [S, M, A_b]
    log_flow: Tensor  # [S, M]


@torch.no_grad()
def policies(
    task: Task,
    net: GoalNetwork,
    states: Tensor,
    *,
    greedy: bool = False,
    backward: Backward = "learned",
) -> Policies:
    """The policies at goal-conditioned states [M, 2K], the same for every seed."""
    parts = []
    env = task.conditioned(states[:1, task.n_places :])
    for part in states.split(max(1, ROWS // task.n_seeds)):
        logits_f, logits_b, log_flow = net(part.expand(task.n_seeds, -1, -1))
        mask = env.forward_mask(part)
        choose = greedy_log_policy if greedy else masked_log_softmax
        back = backward_logits_of(backward, logits_b)
        log_pb = masked_log_softmax(back, env.backward_mask(part))
        parts.append((choose(logits_f, mask.expand(logits_f.shape)), log_pb, log_flow))
    return Policies(*(torch.cat(column, 1) for column in zip(*parts, strict=True)))


@dataclass
class Success:
    """Per seed and evaluated goal."""

    success: Tensor  # [S, G]
    entropy: Tensor | None  # [S]: mean entropy of P_B on backward walks (grids, strings)


def grid_success(task: Task, policy: Callable[[Tensor], Policies], goals: Tensor) -> Success:
    """Exact success on a grid, and the mean entropy of P_B over the states with two predecessors
    that backward walks from the goals pass through (nats)."""
    env = task.env
    assert isinstance(env, HyperGrid)
    dag, cells = env.dag(), env.all_states()
    n_seeds, n_cells = task.n_seeds, len(cells)
    success, entropy, visits = [], [], []
    for part in goals.split(max(1, CELLS // (n_seeds * n_cells * env.n_actions))):
        goal, cell = (cells <= part.unsqueeze(1)).all(-1).nonzero(as_tuple=True)  # the cones
        p = policy(torch.cat([cells[cell], part[goal]], -1))
        table = torch.full(
            (n_seeds, len(part), n_cells, env.n_actions),
            -torch.inf,
            dtype=torch.float64,
            device=goals.device,
        )
        table[:, goal, cell] = p.log_pf.double()
        ended = terminating_distribution(dag, table)  # [S, g, N]
        at = env.index(part).view(1, -1, 1).expand(n_seeds, -1, 1)
        success.append(ended.gather(2, at).squeeze(-1))
        # the same backwards: visits of walks from the goal by P_B(.|s, y)
        back = torch.zeros(*table.shape[:-1], env.n_backward, dtype=torch.float64)
        back = back.to(goals.device)
        back[:, goal, cell] = p.log_pb.double().exp()
        visit = torch.zeros(table.shape[:-1], dtype=torch.float64, device=goals.device)
        visit.scatter_(2, at, 1.0)
        for src, act, dst in reversed(dag.levels()):
            moved = visit[..., dst] * back[..., dst, dag.backward_index[src, act]]
            visit.index_add_(-1, src, moved)
        two = dag.backward_mask.sum(-1) >= 2
        h = -(back * back.clamp(min=1e-300).log()).sum(-1)
        entropy.append((visit * h)[..., two].sum((1, 2)))
        visits.append(visit[..., two].sum((1, 2)))
    mean_entropy = torch.stack(entropy).sum(0) / torch.stack(visits).sum(0).clamp(min=1e-12)
    return Success(torch.cat(success, 1), mean_entropy)


def string_success(task: Task, policy: Callable[[Tensor], Policies], goals: Tensor) -> Success:
    """Exact success on strings: a sum over the ways to grow a window of the goal to the whole.

    A sequence of actions that ends in y fixes the place in y of its first letter (the number of
    prepends), so ways and sequences correspond one to one, also where windows hold equal strings.
    """
    env = task.env
    assert isinstance(env, MergedStrings)
    length, n_letters = env.length, env.n_letters
    results = torch.zeros(task.n_seeds, len(goals), dtype=torch.float64, device=goals.device)
    entropy = torch.zeros(2, task.n_seeds, dtype=torch.float64, device=goals.device)
    lengths = (goals != env.empty).sum(-1)
    for n in lengths.unique().tolist():
        of_length = (lengths == n).nonzero().squeeze(-1)
        for chosen in of_length.split(max(1, CELLS // (n * n * env.n_actions))):
            y = goals[chosen][:, :n]
            windows = [torch.full((len(y), 1, length), env.empty, device=y.device)]
            for size in range(1, n + 1):
                w = torch.full((len(y), n - size + 1, length), env.empty, device=y.device)
                w[..., :size] = y.unfold(1, size, 1)
                windows.append(w)
            goal = goals[chosen].unsqueeze(1)
            rows = [torch.cat([w, goal.expand(w.shape)], -1).flatten(0, 1) for w in windows]
            # a complete string has no action, but predecessors
            n_acting = len(rows) if isinstance(env, Peptides) else len(rows) - 1
            p = policy(torch.cat(rows[:n_acting]))
            counts = [len(r) for r in rows[:n_acting]]
            tables = [
                t.unflatten(1, (len(y), -1)) for t in p.log_pf.double().exp().split(counts, 1)
            ]
            log_pb = [t.unflatten(1, (len(y), -1)) for t in p.log_pb.double().split(counts, 1)]
            if n_acting < len(rows):
                log_pb.append(policy(rows[-1]).log_pb.double().unflatten(1, (len(y), -1)))
            entropy += walk_entropy(env, windows, log_pb)

            def chance(table: Tensor, actions: Tensor) -> Tensor:
                index = actions.expand(len(table), -1, -1).unsqueeze(-1)
                return table.gather(-1, index).squeeze(-1)

            visit = chance(tables[0].expand(-1, -1, n, -1), y)  # the first letter: any place
            for size in range(1, n):
                appended = visit[..., :-1] * chance(tables[size][:, :, :-1], y[:, size:])
                prepended = visit[..., 1:] * chance(
                    tables[size][:, :, 1:], n_letters + y[:, :-size]
                )
                visit = appended + prepended
            final = visit[..., 0]
            if isinstance(env, Peptides):
                final = final * tables[n][:, :, 0, env.stop]
            results[:, chosen] = final
    return Success(results, entropy[0] / entropy[1].clamp(min=1e-12))


def walk_entropy(env: MergedStrings, windows: list[Tensor], log_pb: list[Tensor]) -> Tensor:
    """Entropy of P_B on backward walks from complete strings: sums over the windows that they pass.

    Args:
        windows: by length n, the windows of the strings as states [g, places, L].
        log_pb: by length, [S, g, places, 2]: remove the last letter, remove the first.
    Returns:
        [2, S]: visits times entropy (nats), and visits, of windows with two predecessors.
    """
    visit = torch.ones_like(log_pb[-1][..., 0])
    sums = visit.new_zeros(2, len(visit))
    for window, log_p in zip(windows[:1:-1], log_pb[:1:-1], strict=True):  # one letter: one way
        p = log_p.exp()
        two = env.backward_mask(window).sum(-1) >= 2
        sums[0] += (visit * two * -(p * log_p).sum(-1)).sum((1, 2))
        sums[1] += (visit * two).sum((1, 2))
        last, first = (visit * p[..., i] for i in (0, 1))
        pad = torch.nn.functional.pad
        visit = pad(last, (0, 1)) + pad(first, (1, 0))
    return sums


@torch.no_grad()
def sampled_success(
    task: Task, net: GoalNetwork, goals: Tensor, *, greedy: bool = False, rounds: int = 4
) -> Success:
    """Share of sampled trajectories that end in their goal (sets)."""
    rng = [torch.Generator(goals.device).manual_seed(1) for _ in range(task.n_seeds)]
    repeated = goals.repeat(rounds, 1).expand(task.n_seeds, -1, -1)
    env = task.conditioned(repeated)
    u = uniforms(rng, (env.max_length, repeated.shape[1]))

    def logits(states: Tensor) -> Tensor:
        out = net.forward_logits(states)
        return greedy_log_policy(out, env.forward_mask(states)) if greedy else out

    traj = sample(env, logits, u)
    hit = env.success(traj.last).double()
    return Success(hit.view(task.n_seeds, rounds, -1).mean(1), None)


def measure(
    task: Task,
    net: GoalNetwork,
    *,
    greedy: bool = False,
    backward: Backward = "learned",
) -> Success:
    """Success on the task's evaluation goals."""

    def policy(states: Tensor) -> Policies:
        return policies(task, net, states, greedy=greedy, backward=backward)

    with torch.no_grad():
        if isinstance(task.env, HyperGrid):
            return grid_success(task, policy, task.eval_goals)
        if isinstance(task.env, MergedStrings):
            return string_success(task, policy, task.eval_goals)
        return sampled_success(task, net, task.eval_goals, greedy=greedy)


@torch.no_grad()
def source_log_flow(task: Task, net: GoalNetwork) -> Tensor:
    """log F(s0|y) of the evaluation goals; log C at convergence. [S, G]."""
    source = task.env.initial((len(task.eval_goals),))
    return policies(task, net, torch.cat([source, task.eval_goals], -1)).log_flow


@torch.no_grad()
def distinct_backward_paths(
    task: Task, net: GoalNetwork, goal: Tensor, *, n: int = 64, backward: Backward = "learned"
) -> list[int]:
    """Number of distinct trajectories among ``n`` backward syntheses of one goal [K], per seed."""
    rng = [torch.Generator(goal.device).manual_seed(2) for _ in range(task.n_seeds)]
    env = task.conditioned(goal.expand(task.n_seeds, n, -1))
    u = uniforms(rng, (env.max_length, n))
    traj = retrospective_backward_synthesis(env, u, backward_policy(net, backward))
    return [len(torch.unique(actions, dim=0)) for actions in traj.actions]


@torch.no_grad()
def distinct_orders(task: Task, net: GoalNetwork, *, backward: Backward = "learned") -> list[int]:
    """In how many orders backward walks take strings apart, one walk per evaluation goal; per seed.

    An order says, letter by letter, which end it is taken from.
    """
    rng = [torch.Generator(task.device).manual_seed(2) for _ in range(task.n_seeds)]
    env = task.conditioned(task.eval_goals.expand(task.n_seeds, -1, -1))
    u = uniforms(rng, (env.max_length, len(task.eval_goals)))
    traj = retrospective_backward_synthesis(env, u, backward_policy(net, backward))
    assert isinstance(task.env, MergedStrings)
    ends = task.env.backward_action(traj.actions).masked_fill(~traj.mask, -1)
    return [len(torch.unique(order, dim=0)) for order in ends]
