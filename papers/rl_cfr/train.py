"""One run: learn an abstraction by RL-CFR, or prepare one of those it is compared with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.cli import run_cli
from common.run import Run
from papers.rl_cfr import baselines, leduc
from papers.rl_cfr.abstraction import Abstraction, act, chosen_sizes, fixed, learned
from papers.rl_cfr.config import Config, resolve
from papers.rl_cfr.mdp import (
    Belief,
    Solving,
    explore,
    inputs,
    reward,
    solve_with,
    transition,
    uniform_ranges,
)
from papers.rl_cfr.methods import METHODS
from papers.rl_cfr.task import (
    FEATURES,
    N_HANDS,
    draw_nine,
    draw_stack,
    first_state,
    has_choice,
    largest_raise,
    make_deal,
    tuning_deals,
)


def solving(cfg: Config) -> Solving:
    """How training solves."""
    return Solving(cfg.iterations, cfg.tolerance or None, cfg.value)


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint; methods without training finish at once."""
    given, cfg = cfg, resolve(cfg)
    run = Run.open(cfg.out, given)
    method = METHODS[cfg.method]
    if run.finished:
        return
    if cfg.task in leduc.TASKS:
        run.finish(sizes=leduc_sizes(cfg))
    elif method.kind == "learned":
        train_rl_cfr(cfg, run)
    elif method.kind == "tuned":
        how = Solving(cfg.tuning_iterations, None)
        deals = tuning_deals(cfg.tuning_deals, cfg.stacks)
        default = fixed(cfg.default_sizes)
        best, everything = baselines.tune_fixed(deals, cfg.n_pairs, default, how)
        run.finish(sizes=list(best), table=[[list(sizes), gain] for sizes, gain in everything[:20]])
    else:
        run.finish(sizes=list(cfg.default_sizes if method.kind == "default" else method.sizes))


def leduc_sizes(cfg: Config) -> list[float] | None:
    """Sizes of the own bets in no-limit Leduc, in pots; None: every bet (FINE)."""
    method = METHODS[cfg.method]
    if method.kind == "tuned":
        stack = leduc.stack_of(cfg.task)
        return list(baselines.tune_leduc(stack, cfg.n_pairs, cfg.tuning_iterations)[0])
    if method.kind == "default":
        return list(cfg.default_sizes)
    return None if method.sizes else []


def train_rl_cfr(cfg: Config, run: Run) -> None:
    """Rounds of self-play with solved rewards, then gradient steps."""
    import torch  # the baselines do without

    from common.torch_utils import setup
    from papers.rl_cfr.method import Learner

    setup(cfg.device, cfg.seed)
    rng = np.random.default_rng([cfg.seed, 43])
    n_inputs = FEATURES + (2 * N_HANDS if cfg.with_ranges else 0)
    learner = Learner(cfg.n_pairs, n_inputs, cfg.lr)
    n = cfg.samples
    s = torch.zeros(n, n_inputs)
    a = torch.zeros(n, 2 * cfg.n_pairs)
    r = torch.zeros(n)  # in units of the critic
    run.keep(learner=learner, rng=rng, s=s, a=a, r=r)

    for number in run.steps(
        n // cfg.samples_per_round, then=lambda: {"target": learner.target.state_dict()}
    ):
        first, done = number * cfg.samples_per_round, (number + 1) * cfg.samples_per_round
        played = play(cfg, learned(learner.target.state_dict(), cfg.share_of_stack), rng, first)
        s[first:done], a[first:done] = map(torch.from_numpy, (played.inputs, played.actions))
        r[first:done] = torch.from_numpy(played.targets)

        losses = torch.zeros(2)
        for _ in range(cfg.learning_steps):
            index = torch.from_numpy(rng.integers(done, size=cfg.batch))
            losses += torch.stack(learner.learn(s[index], a[index], r[index], cfg.tau))
        nodes, gaps = played.nodes.mean(0), 1000 * played.gaps.mean(0)
        run.log(
            done,
            reward=float(np.mean(played.gains)),
            nodes=float(nodes[0]),
            nodes_default=float(nodes[1]),
            exploitability=float(gaps[0]),
            exploitability_default=float(gaps[1]),
            worst_exploitability=float(1000 * played.gaps.max()),
            critic_loss=float(losses[0]) / cfg.learning_steps,
        )


class Played(NamedTuple):
    """A round of self-play, one line per public state."""

    inputs: NDArray[np.float32]  # [n, n_inputs] what the networks see
    actions: NDArray[np.float32]  # [n, 2K]
    targets: NDArray[np.float32]  # [n] what the critic regresses, in its units
    gains: list[float]  # mbb per hand
    nodes: NDArray[np.float64]  # [n, 2] of the chosen tree and of the default's
    gaps: NDArray[np.float64]  # [n, 2] their exploitability, big blinds


def play(cfg: Config, policy: Abstraction, rng: np.random.Generator, first: int) -> Played:
    """One round of self-play from sample ``first`` on; a new hand begins with it."""
    how, default = solving(cfg), fixed(cfg.default_sizes)
    below = policy if first >= cfg.trust_from * cfg.samples else default
    lines, gains, nodes, gaps = [], [], [], []
    belief = None
    for i in range(first, first + cfg.samples_per_round):
        if belief is None or not has_choice(belief.state):  # a new hand
            nine = draw_nine(rng)
            deal = make_deal(nine)
            belief = Belief(first_state(nine, draw_stack(rng, cfg.stacks)), uniform_ranges())
        view = inputs(belief, cfg.with_ranges)
        noise = cfg.wide_noise if i < cfg.wide_samples else cfg.noise
        action = explore(act(policy.weights, view), noise, rng)
        most = largest_raise(belief.state)
        at_root = fixed(chosen_sizes(action, cfg.share_of_stack, most))
        chosen = solve_with(belief, deal, at_root, (below, below), how)
        base = solve_with(belief, deal, default, (below, below), how)
        gain = reward(chosen, base)
        target = chosen.value if cfg.no_baseline else gain
        scaled = float(np.clip(target, -cfg.clip, cfg.clip)) / cfg.reward_scale
        lines.append((view, action, scaled))
        gains.append(gain)
        nodes.append((chosen.solution.nodes, base.solution.nodes))
        gaps.append((chosen.solution.exploitability, base.solution.exploitability))
        belief = transition(belief, deal, chosen, base, rng)
    columns = (np.array(column, dtype=np.float32) for column in zip(*lines, strict=True))
    return Played(*columns, gains, np.array(nodes, dtype=float), np.array(gaps))


if __name__ == "__main__":
    run_cli(train, Config)
