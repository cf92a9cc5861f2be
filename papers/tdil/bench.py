"""Updates per second with stacked seeds against one seed after the other, and the reward's cost.

The peer is this folder's own loop with one seed per process-like call, the way the authors' code
runs seeds; same networks, batches and updates. The second comparison is R_TDIL in one batched
product against a loop over the expert's states. Repeats are interleaved; medians are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common import files
from common.cli import run_cli
from common.sac import polyak
from common.stacked import adam, randn, seed_generators
from common.torch_utils import setup
from papers.tdil.agents import ContinuousAgent, StackedAdam
from papers.tdil.method import (
    TransitionDiscriminator,
    below_threshold,
    discriminator_loss,
    masked_mean,
    surrogate_reward,
)

OBS, ACTION, BATCH, HIDDEN, EXPERT, SEEDS = 11, 3, 64, 64, 20, 5


@dataclass
class Config:
    """Measure, print, and write the numbers where asked."""

    json: Path | None = None  # file for the numbers
    repeats: int = 7  # interleaved; medians are compared
    updates: int = 20  # per repeat


def updater(seeds: tuple[int, ...]) -> Callable[[], None]:
    """One update of TDIL for the given seeds: discriminator, reward, actor, both critics, BC."""
    draw = seed_generators(seeds, 5)
    agent = ContinuousAgent(seed_generators(seeds, 1), OBS, ACTION, HIDDEN)
    D = TransitionDiscriminator(seed_generators(seeds, 2), OBS, (HIDDEN,) * 3)
    optimise_actor = StackedAdam(list(agent.actor.parameters()), 3e-4)
    optimise_critic = adam([{"params": list(agent.critic.parameters())}], lr=3e-4)
    optimise_D = adam([{"params": list(D.parameters())}], lr=3e-4)
    expert = randn(draw, EXPERT, OBS)
    s, s_next = randn(draw, BATCH, OBS), randn(draw, BATCH, OBS)
    a = randn(draw, BATCH, ACTION).tanh()

    def update() -> None:
        optimise_D.zero_grad(set_to_none=True)
        discriminator_loss(D.logit, s, s_next).sum().backward()
        optimise_D.step()
        with torch.no_grad():
            r = surrogate_reward(D, s_next, expert)
        kept = below_threshold(r, r, 10.0)
        terms, _ = agent.actor_terms(s, agent.noise(draw, BATCH))
        masked_mean(terms, kept).sum().backward()
        optimise_actor.step(kept.any(1))
        for _ in range(2):
            optimise_critic.zero_grad(set_to_none=True)
            noise = agent.noise(draw, BATCH)
            agent.critic_loss(s, a, r, s_next, noise, 0.99).sum().backward()
            optimise_critic.step()
        agent.bc_loss(s, a).sum().backward()
        optimise_actor.step()
        polyak(agent.target, agent.critic, 0.005)

    return update


@torch.no_grad()
def looped_reward(D: TransitionDiscriminator, s: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """R_TDIL, one expert state after the other."""
    total = torch.zeros(s.shape[:2])
    for i in range(e.shape[1]):
        total += D(s, e[:, i : i + 1].expand_as(s))
    return total


def seconds(call: Callable[[], Any], times: int) -> float:
    """Wall-clock seconds of `times` calls."""
    begun = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - begun


def main(cfg: Config) -> None:
    """Measure and report."""
    setup("cpu", 0)
    torch.set_num_threads(1)
    together = updater(tuple(range(SEEDS)))
    alone = [updater((seed,)) for seed in range(SEEDS)]
    draw = seed_generators((0,), 5)
    D = TransitionDiscriminator(seed_generators((0,), 2), 2, (HIDDEN,) * 3)
    s, e = randn(draw, 16, 2), randn(draw, 50, 2)

    @torch.no_grad()
    def batched() -> torch.Tensor:
        return surrogate_reward(D, s, e)

    torch.testing.assert_close(batched(), looped_reward(D, s, e))
    calls: dict[str, Callable[[], Any]] = {
        "stacked": together,
        "one by one": lambda: [update() for update in alone],
        "batched reward": batched,
        "looped reward": lambda: looped_reward(D, s, e),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(cfg.repeats):
        for name, call in calls.items():
            times[name].append(seconds(call, cfg.updates) / cfg.updates)
    medians = {name: statistics.median(values) for name, values in times.items()}
    stacking = medians["one by one"] / medians["stacked"]
    batching = medians["looped reward"] / medians["batched reward"]
    print(f"{SEEDS} seeds, batch {BATCH}, three hidden layers of {HIDDEN}, one thread")
    print(f"  stacked     {SEEDS / medians['stacked']:8.0f} TDIL updates of a seed per second")
    print(f"  one by one  {SEEDS / medians['one by one']:8.0f}   stacking is {stacking:.2f} x")
    print("R_TDIL of 16 states, 50 expert states")
    print(f"  batched     {1e3 * medians['batched reward']:8.3f} ms")
    print(f"  looped      {1e3 * medians['looped reward']:8.3f} ms   batching is {batching:.1f} x")
    if cfg.json is not None:
        numbers = {"stacking_ratio": stacking, "batching_ratio": batching, "seconds": medians}
        files.write_json(cfg.json, numbers)


if __name__ == "__main__":
    run_cli(main, Config)
