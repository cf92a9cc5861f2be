"""Speed: our DCFR against OpenSpiel's own CFR on the same no-limit Leduc game, one process.

One iteration means both players updated once: two of ours (an iteration updates one player), one
``evaluate_and_update_policy`` of OpenSpiel's CFRSolver. Both results are measured by OpenSpiel.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cli import run_cli
from papers.rl_cfr import abstraction, leduc, solver, task


@dataclass
class BenchConfig:
    """Compare speeds."""

    json: Path | None = None  # also write the numbers here
    stack: int = 4  # chips of no-limit Leduc
    iterations: int = 30  # of OpenSpiel per repeat
    repeats: int = 5  # interleaved; medians are compared


def seconds_of(function: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def bench(cfg: BenchConfig) -> None:
    """Print both speeds, their ratio, what each has reached, and the cost of PREFLOP43 trees."""
    import pyspiel

    game, deal, ranges = leduc.build(cfg.stack), leduc.new_leduc_deal(), leduc.uniform_ranges()
    peer_game = leduc.openspiel_game(cfg.stack)
    peer = pyspiel.CFRSolver(peer_game)
    solver.solve(game.tree, deal, ranges, 100)  # compiles
    state, root = solver.new_state(game.tree, leduc.N_CARDS), np.zeros(40 * cfg.iterations)
    done = 0
    slow, fast = [], []
    for _ in range(cfg.repeats):

        def theirs() -> None:
            for _ in range(cfg.iterations):
                peer.evaluate_and_update_policy()

        def ours(begin: int = done) -> None:
            end = begin + len(root)
            solver.iterate(game.tree, deal, ranges, state, begin, end, solver.WARM_UP, 1.0, root)

        slow.append(seconds_of(theirs) / cfg.iterations)
        fast.append(seconds_of(ours) / (len(root) / 2))
        done += len(root)
    ratio = statistics.median(slow) / statistics.median(fast)

    same = cfg.repeats * cfg.iterations  # iterations of OpenSpiel so far
    theirs_reached = pyspiel.nash_conv(peer_game, peer.average_policy()) / 2
    found = leduc.solve_game(game, 2 * same)
    ours_reached = leduc.exploitability(cfg.stack, (game, game), (found.policy, found.policy))
    print(f"no-limit Leduc, stack {cfg.stack}: {game.tree.kind.size} public nodes")
    print(f"OpenSpiel CFRSolver     {1e3 * statistics.median(slow):>10.3f} ms/iteration")
    print(f"ours, DCFR on hands     {1e3 * statistics.median(fast):>10.3f} ms/iteration")
    print(f"ratio                   {ratio:>10.1f}")
    print(
        f"exploitability after {same} iterations (chips/hand, by OpenSpiel): "
        f"CFR {theirs_reached:.5f}, DCFR {ours_reached:.5f}"
    )

    default, fine = (
        abstraction.fixed(s) for s in (abstraction.DEFAULT_SIZES, abstraction.FINE_SIZES)
    )
    nine, _ = task.held_out(1)[0]
    small, hands = task.first_state(nine, 10.0), np.full((2, task.N_HANDS), 1 / task.N_HANDS)
    matrices, costs = task.make_deal(nine), {}
    for name, one in (("AA_def", default), ("FINE", fine)):
        tree = task.grow(small, one, one, one).tree
        solving = functools.partial(solver.solve, tree, matrices, hands, 500)
        times = [seconds_of(solving) for _ in range(5)]
        costs[name] = statistics.median(times)
        print(
            f"PREFLOP43 {name:<8} {tree.kind.size:>5} nodes, 10 BB"
            f"{1e3 * costs[name]:>10.1f} ms per solve (T = 500)"
        )
    if cfg.json is not None:
        numbers = {
            "ours": 1 / statistics.median(fast),
            "peer": 1 / statistics.median(slow),
            "unit": "iterations/s",
            "ratio": ratio,
            "exploitability": {"ours": ours_reached, "peer": theirs_reached, "iterations": same},
            "seconds_per_solve": costs,
        }
        cfg.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
