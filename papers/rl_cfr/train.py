"""One run: learn an abstraction by RL-CFR, or prepare one of those it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import run_cli
from common.errors import UserError, choose
from common.run import Run
from papers.rl_cfr import baselines, leduc
from papers.rl_cfr.abstraction import DEFAULT_SIZES, act, chosen_sizes, fixed, learned
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

TASKS = ("preflop43", *leduc.TASKS)


@dataclass
class Config:
    """One training run."""

    method: str = "rl_cfr"  # a variant of RL-CFR or a baseline, see baselines.METHODS
    task: str = "preflop43"  # preflop43, or leduc-4, leduc-6, leduc-8 (stack in chips)
    seed: int = 0  # of the networks, the deals and the exploration
    seed_offset: int = 0  # added to the seed; the study of ablations uses 100, the claims 0
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # the solver and the small networks run on the CPU
    samples: int = 18_000  # public states whose two subgames are solved (paper: about 2e7)
    samples_per_round: int = 150  # data phase, then learning, in turn
    learning_steps: int = 400  # per round (repository: 15,000)
    batch: int = 256  # (repository: 1024)
    n_pairs: int = 2  # K, most raises of a learned abstraction (paper 3, repository 5)
    default_sizes: tuple[float, ...] = DEFAULT_SIZES  # AA_def, pots (repository .5 1 2 4 8)
    share_of_stack: bool = False  # the repository's f instead of the paper's
    stacks: tuple[float, float] = (5.0, 15.0)  # big blinds (repository 10, 100)
    iterations: int = 500  # T of DCFR in training (paper 250)
    tolerance: float = 1.0  # mbb: T is doubled, up to 8 T, while more exploitable; 0: never
    value: str = "average"  # value of a tree: of the average strategies, or "iterates"
    trust_from: float = 21 / 200  # share of the samples after which other nodes use pi (repository)
    no_baseline: bool = False  # ablation: reward v^{AA(a)} alone
    with_ranges: bool = False  # ablation: the networks see the public belief state
    noise: float = 0.15  # standard deviation of the exploration (repository)
    wide_noise: float = 0.6  # … during the first samples
    wide_samples: int = 400
    clip: float = 50.0  # mbb: rewards are clipped to +- this before the critic sees them
    reward_scale: float = 10.0  # mbb per unit of the critic
    lr: float = 3e-4  # Adam, actor and critic (repository)
    tau: float = 0.005  # soft update of the target actor (repository)
    eval_deals: int = 200  # held-out deals of the root gain
    eval_security_deals: int = 50  # of the security loss, against FINE
    eval_deep: int = 100  # of the gain after the first action
    eval_iterations: int = 4_000  # T of DCFR in the evaluation
    eval_tolerance: float = 0.2  # mbb: T is doubled, up to 8 T, while a tree of a gain is above
    tuning_deals: int = 60  # TUNED-FIXED
    tuning_iterations: int = 1_000  # TUNED-FIXED, T of DCFR
    oracle_iterations: int = 2_000  # GRID oracle, T of DCFR in the search


def resolve(cfg: Config) -> Config:
    """The configuration with the variant's changes.

    Raises:
        UserError: for an unknown method, task or kind of value.
    """
    choose("method", cfg.method, baselines.METHODS)
    choose("task", cfg.task, TASKS)
    choose("value", cfg.value, ("average", "iterates"))
    if cfg.task in leduc.TASKS:
        choose(f"method of {cfg.task}", cfg.method, baselines.LEDUC_METHODS)
    if cfg.samples % cfg.samples_per_round:
        raise UserError("--samples must be a multiple of --samples-per-round")
    changes = baselines.VARIANTS.get(cfg.method, {})
    return replace(cfg, seed=cfg.seed + cfg.seed_offset, seed_offset=0, **changes)


def solving(cfg: Config) -> Solving:
    """How training solves."""
    return Solving(cfg.iterations, cfg.tolerance or None, cfg.value)


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint; methods without training finish at once."""
    given, cfg = cfg, resolve(cfg)
    run = Run.open(cfg.out, given)
    if run.finished:
        return
    if cfg.task in leduc.TASKS:
        run.finish({"sizes": leduc_sizes(cfg)})
    elif cfg.method in baselines.VARIANTS:
        train_rl_cfr(cfg, run)
    elif cfg.method == "tuned_fixed":
        how = Solving(cfg.tuning_iterations, None)
        deals = tuning_deals(cfg.tuning_deals, cfg.stacks)
        default = fixed(cfg.default_sizes)
        best, everything = baselines.tune_fixed(deals, cfg.n_pairs, default, how)
        table = [[list(sizes), gain] for sizes, gain in everything[:20]]
        run.finish({"sizes": list(best), "table": table})
    elif cfg.method == "default":
        run.finish({"sizes": list(cfg.default_sizes)})
    else:
        run.finish({"sizes": list(baselines.FIXED_SETS.get(cfg.method, ()))})


def leduc_sizes(cfg: Config) -> list[float] | None:
    """Sizes of the own bets in no-limit Leduc, in pots; None: every bet."""
    if cfg.method == "fine":
        return None
    if cfg.method == "tuned_fixed":
        stack = leduc.stack_of(cfg.task)
        return list(baselines.tune_leduc(stack, cfg.n_pairs, cfg.tuning_iterations)[0])
    return {"default": list(cfg.default_sizes), "no_raise": []}[cfg.method]


def train_rl_cfr(cfg: Config, run: Run) -> None:
    """Rounds of self-play with solved rewards, then gradient steps."""
    import torch  # the baselines do without

    from common.torch_utils import setup
    from papers.rl_cfr.method import Learner

    setup(cfg.device, cfg.seed)
    rng = np.random.default_rng([cfg.seed, 43])
    n_inputs = FEATURES + (2 * N_HANDS if cfg.with_ranges else 0)
    learner = Learner(cfg.n_pairs, n_inputs, cfg.lr)
    n, how, default = cfg.samples, solving(cfg), fixed(cfg.default_sizes)
    s = torch.zeros(n, n_inputs)
    a = torch.zeros(n, 2 * cfg.n_pairs)
    r = torch.zeros(n)  # in units of the critic
    done = 0
    if state := run.restore():
        done = state["done"]
        learner.load_state_dict(state["learner"])
        rng.bit_generator.state = state["rng"]
        s[:done], a[:done], r[:done] = state["s"], state["a"], state["r"]

    def tree() -> dict[str, Any]:
        data = {"s": s[:done], "a": a[:done], "r": r[:done]}
        return {
            "done": done,
            "learner": learner.state_dict(),
            "rng": rng.bit_generator.state,
        } | data

    while done < n:
        policy = learned(learner.target.state_dict(), cfg.share_of_stack)
        below = policy if done >= cfg.trust_from * n else default
        rewards, nodes, gaps = [], [], []
        belief = None
        for i in range(done, done + cfg.samples_per_round):
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
            s[i], a[i] = torch.from_numpy(view), torch.from_numpy(action)
            r[i] = float(np.clip(target, -cfg.clip, cfg.clip)) / cfg.reward_scale
            rewards.append(gain)
            nodes.append((chosen.solution.nodes, base.solution.nodes))
            gaps.append((chosen.solution.exploitability, base.solution.exploitability))
            belief = transition(belief, deal, chosen, base, rng)
        done += cfg.samples_per_round

        losses = torch.zeros(2)
        for _ in range(cfg.learning_steps):
            index = torch.from_numpy(rng.integers(done, size=cfg.batch))
            losses += torch.stack(learner.learn(s[index], a[index], r[index], cfg.tau))
        run.log(
            done,
            reward=float(np.mean(rewards)),
            nodes=float(np.mean(nodes, axis=0)[0]),
            nodes_default=float(np.mean(nodes, axis=0)[1]),
            exploitability=float(1000 * np.mean(gaps, axis=0)[0]),
            exploitability_default=float(1000 * np.mean(gaps, axis=0)[1]),
            worst_exploitability=float(1000 * np.max(gaps)),
            critic_loss=float(losses[0]) / cfg.learning_steps,
        )
        if run.due(done):
            run.save(done, tree())
    run.finish({"target": learner.target.state_dict()})


if __name__ == "__main__":
    run_cli(train, Config)
