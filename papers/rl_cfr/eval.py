"""A finished run as rows: every number from solved trees, none from sampled hands.

Curves have the held-out deal as "step". All gains are in mbb per hand.

    gain, gain_t250, gain_iterates_t250   (i) at the game's root, SB to act, AA there alone
    security_loss                         (ii) AA at all own nodes against FINE, mean over seats
    security_error                        solver exploitability of the trees of (ii), mean
    (worst_)exploitability(_default)      (iii) of the two trees of (i): mean, largest over deals
    nodes(_default), seconds(_default)    (iv) of the trees of (i)
    head_to_head                          (v) AA against AA_def in one tree, mean over seats
    size                                  raises of a fixed abstraction, in pots
    gain_deep                             (i) after the first action, ranges no longer uniform
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.cli import run_cli
from common.run import Run
from papers.rl_cfr import baselines, leduc
from papers.rl_cfr.abstraction import (
    FINE_SIZES,
    Abstraction,
    act,
    chosen_sizes,
    fixed,
    learned,
    random,
    sizes_at,
)
from papers.rl_cfr.config import Config, resolve
from papers.rl_cfr.mdp import (
    Belief,
    Solving,
    inputs,
    reward,
    solve_with,
    transition,
    uniform_ranges,
)
from papers.rl_cfr.methods import METHODS
from papers.rl_cfr.solver import Deal, solve
from papers.rl_cfr.task import (
    EVALUATION_STREAM,
    MBB,
    SMALLEST_RAISE,
    features,
    first_state,
    grow,
    has_choice,
    held_out,
    largest_raise,
    make_deal,
)


@dataclass
class EvalConfig:
    """Evaluate a run."""

    run: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # unused: solving is work for a CPU


FINE = fixed(FINE_SIZES)
LEARNING_POINTS = 40  # of the learning curve
LEDUC_ITERATIONS = {"leduc-4": 8_000, "leduc-6": 4_000, "leduc-8": 2_000}


class Gain(NamedTuple):
    """A root's gain and what it cost."""

    gain: float
    exploitability: float  # mbb, of the tree with the abstraction
    exploitability_default: float
    nodes: int
    nodes_default: int
    seconds: float
    seconds_default: float


def measured(
    belief: Belief, deal: Deal, at_root: Abstraction, default: Abstraction, how: Solving
) -> Gain:
    """Gain of an abstraction at the root over AA_def, AA_def below in both trees."""
    solved, seconds = [], []
    for one in (at_root, default):
        start = time.perf_counter()
        solved.append(solve_with(belief, deal, one, (default, default), how))
        seconds.append(time.perf_counter() - start)
    gaps = [one.solution.exploitability * MBB for one in solved]
    nodes = [one.solution.nodes for one in solved]
    return Gain(reward(*solved), gaps[0], gaps[1], nodes[0], nodes[1], seconds[0], seconds[1])


def against(
    belief: Belief, deal: Deal, own: Abstraction, other: Abstraction, T: int
) -> tuple[float, float]:
    """Value of ``own`` at all own nodes against ``other``, mean over both seats.

    Returns:
        the value and the mean exploitability of the two trees, in mbb per hand.
    """
    total, gap = 0.0, 0.0
    for seat in (0, 1):
        below = (own, other) if seat == 0 else (other, own)
        tree = grow(belief.state, below[belief.state.player], *below).tree
        found = solve(tree, deal, belief.ranges, T)
        total += float(found.values[seat])
        gap += found.exploitability
    return total / 2 * MBB, gap / 2 * MBB


def deep_beliefs(
    n: int, stacks: tuple[float, float], default: Abstraction
) -> list[tuple[Belief, Deal]]:
    """Public belief states after one or two actions of held-out hands; the same for all methods."""
    rng = np.random.default_rng([EVALUATION_STREAM, 1])
    found: list[tuple[Belief, Deal]] = []
    how = Solving(1_000, None)
    for nine, stack in held_out(20 * n, stacks):
        deal = make_deal(nine)
        belief: Belief | None = Belief(first_state(nine, stack), uniform_ranges())
        for _ in range(int(rng.integers(1, 3))):
            if belief is None or not has_choice(belief.state):
                belief = None
                break
            solved = solve_with(belief, deal, default, (default, default), how)
            belief = transition(belief, deal, solved, solved, rng)
        if belief is not None and has_choice(belief.state):
            found.append((belief, deal))
        if len(found) == n:
            break
    return found


def legal_sizes(abstraction: Abstraction, belief: Belief) -> list[float]:
    """The raises in pots that the abstraction adds to AA_base at a state."""
    most = largest_raise(belief.state)
    sizes = sizes_at(abstraction, features(belief.state), most)
    return sorted({round(float(x), 3) for x in sizes if SMALLEST_RAISE <= x < most})


def evaluate(cfg: EvalConfig) -> None:
    """Write the rows of the run."""
    run = Run.load(cfg.run)
    trained = resolve(run.config(Config))
    label = {"method": trained.method, "task": trained.task, "seed": trained.seed}
    if trained.task in leduc.TASKS:
        run.write_eval(leduc_rows(trained, run.final()["sizes"], label), [])
        return
    final = run.final()
    policy = policy_of(trained, final)
    rows, extras = preflop_rows(trained, policy, label)
    if "target" in final:
        rows += learning_rows(run.metrics(), label)
    if sizes := final.get("sizes"):
        steps = list(range(len(sizes)))
        rows.append({**label, "metric": "size", "step": steps, "value": list(sizes)})
    if "table" in final:
        extras.append({"name": "tuning", **label, "data": final["table"]})
    run.write_eval(rows, extras)


def policy_of(cfg: Config, final: dict[str, Any]) -> Abstraction:
    """The abstraction of a finished run."""
    kind = METHODS[cfg.method].kind
    if kind == "learned":
        return learned(final["target"], cfg.share_of_stack)
    return random(cfg.n_pairs, cfg.seed) if kind == "random" else fixed(final["sizes"])


def preflop_rows(
    cfg: Config, policy: Abstraction, label: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Metrics (i) to (v) of an abstraction, and its sizes at the held-out roots."""
    rows: list[dict[str, Any]] = []
    default, kind = fixed(cfg.default_sizes), METHODS[cfg.method].kind

    def row(metric: str, values: list[float]) -> None:
        steps = list(range(len(values)))
        rows.append({**label, "metric": metric, "step": steps, "value": values})

    def chosen_at(belief: Belief, deal: Deal) -> Abstraction:
        """The abstraction of one state as a fixed one."""
        if kind == "searched":
            how = Solving(cfg.oracle_iterations, None)
            return baselines.best_single_size(belief, deal, default, how)
        if cfg.with_ranges:
            action = act(policy.weights, inputs(belief, True))
            most = largest_raise(belief.state)
            return fixed(chosen_sizes(action, cfg.share_of_stack, most))
        return policy

    converged = Solving(cfg.eval_iterations, cfg.eval_tolerance or None)
    deals = [
        (Belief(first_state(nine, stack), uniform_ranges()), make_deal(nine))
        for nine, stack in held_out(cfg.eval_deals, cfg.stacks)
    ]
    choices = [chosen_at(belief, deal) for belief, deal in deals]
    measured(*deals[0], default, default, Solving(2, None))  # compiles
    pairs = list(zip(deals, choices, strict=True))
    several = [measured(*one, at, default, converged) for one, at in pairs]
    row("gain", [round(one.gain, 5) for one in several])
    for end in ("", "_default"):
        row("nodes" + end, [getattr(one, "nodes" + end) for one in several])
        row("seconds" + end, [round(getattr(one, "seconds" + end), 5) for one in several])
        gaps = [getattr(one, "exploitability" + end) for one in several]
        rows.append({**label, "metric": "exploitability" + end, "value": float(np.mean(gaps))})
        worst = {"metric": "worst_exploitability" + end, "value": float(np.max(gaps))}
        rows.append({**label, **worst})
    for value in ("average", "iterates"):
        how = Solving(250, None, value)
        gains = [measured(*one, at, default, how).gain for one, at in pairs]
        name = "gain_t250" if value == "average" else "gain_iterates_t250"
        row(name, np.round(gains, 4).tolist())
    extras = []
    if kind in ("learned", "searched"):
        sizes = [[round(one[0].state.stack, 2), *legal_sizes(at, one[0])] for one, at in pairs]
        extras.append({"name": "sizes", **label, "data": sizes})

    deep = deep_beliefs(cfg.eval_deep, cfg.stacks, default)
    gains = [measured(*one, chosen_at(*one), default, converged).gain for one in deep]
    row("gain_deep", np.round(gains, 4).tolist())

    if kind == "searched" or cfg.with_ranges:
        return rows, extras  # they choose by solving, or need ranges that the tree lacks
    few = deals[: cfg.eval_security_deals]
    T = cfg.eval_iterations
    if (
        few and METHODS[cfg.method].sizes != FINE_SIZES
    ):  # FINE against itself: 0, the mean of both seats
        judged = [against(*one, policy, FINE, T) for one in few]
        row("security_loss", [round(-value, 5) for value, _ in judged])
        error = float(np.mean([gap for _, gap in judged]))
        rows.append({**label, "metric": "security_error", "value": error})
    if few and kind != "default":
        row("head_to_head", [round(against(*one, policy, default, T)[0], 5) for one in few])
    return rows, extras


def learning_rows(metrics: list[dict[str, Any]], label: dict[str, Any]) -> list[dict[str, Any]]:
    """Learning curve: mean reward (mbb, with exploration) per round, and what solving gave."""
    rows = []
    for name in ("reward", "nodes", "exploitability", "exploitability_default"):
        values = [line[name] for line in metrics]
        steps = [line["step"] for line in metrics]
        stride = max(1, -(-len(values) // LEARNING_POINTS))
        groups = [range(i, min(i + stride, len(values))) for i in range(0, len(values), stride)]
        rows.append(
            {**label, "metric": f"training_{name}", "step": [steps[g[-1]] for g in groups]}
            | {"value": [float(np.mean([values[i] for i in g])) for g in groups]}
        )
    return rows


def leduc_rows(
    cfg: Config, sizes: list[float] | None, label: dict[str, Any]
) -> list[dict[str, Any]]:
    """Exploitability of own abstractions in the full game, by our values and by OpenSpiel."""
    stack = leduc.stack_of(cfg.task)
    T = LEDUC_ITERATIONS[cfg.task]
    games = leduc.build(stack, sizes, None), leduc.build(stack, None, sizes)
    start = time.perf_counter()
    solved = [leduc.solve_game(game, T) for game in games]
    seconds = time.perf_counter() - start
    policies = solved[0].policy, solved[1].policy
    values = {
        "exploitability": leduc.exploitability(stack, games, policies) * MBB,
        "security_loss": -float(solved[0].values[0] + solved[1].values[1]) / 2 * MBB,
        "solver_exploitability": (solved[0].exploitability + solved[1].exploitability) / 2 * MBB,
        "nodes": sum(one.nodes for one in solved) / 2,
        "seconds": seconds / 2,
    }
    return [{**label, "metric": metric, "value": value} for metric, value in values.items()]


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
