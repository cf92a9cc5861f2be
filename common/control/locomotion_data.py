"""Offline data of several qualities from one random search: who acted is a snapshot of it.

Made in the image of D4RL's, on scales of their own: scores compare with D4RL's numbers nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from common.control.cards import statistics
from common.control.episodes import Episode, cached_episodes
from common.control.random_search import (
    LIBRARIES,
    Floats,
    Make,
    SearchConfig,
    Snapshot,
    maker,
    play,
    searched,
)

Quality = Literal["random", "medium", "replay", "medium-expert", "expert", "full-replay"]
Act = Callable[[Floats], Floats]
_REFERENCE, _DATA = 7, 8  # streams of seeds
BEHAVIOUR = {
    "random": "uniform actions",
    "medium": "the snapshot nearest to half way from random to the best",
    "replay": "the search's tries, evenly from the first to the medium snapshot",
    "medium-expert": "the medium and the best snapshot, in turn",
    "expert": "the best snapshot",
    "full-replay": "the search's tries, evenly from the first to the last snapshot",
}


@dataclass(frozen=True)
class LocomotionData:
    """Each field is part of the data's hash, the search included."""

    search: SearchConfig
    quality: Quality
    transitions: int = 50_000  # at least; episodes are whole
    steps: int = 200  # of an episode
    scored_steps: int = 200  # of the episodes that the reference returns are measured on
    sigma: float = 0.1  # of normal noise on the snapshots' actions
    reference_episodes: int = 100
    seed: int = 0
    version: int = 1  # of the generator


def locomotion_episodes(
    config: LocomotionData, make: Make | None = None
) -> tuple[list[Episode], dict[str, Any]]:
    """The episodes from the cache, generated on first use; see :func:`generate`."""
    name = config.search.environment.lower().replace("/", "-")
    return cached_episodes(
        f"repro/locomotion/{name}/{config.quality}-v0",
        {"name": "random-search", **asdict(config)},
        lambda: generate(config, make),
        libraries=LIBRARIES,
    )


def generate(
    config: LocomotionData, make: Make | None = None
) -> tuple[list[Episode], dict[str, Any]]:
    """Run the policies of a quality.

    Args:
        config: what is wanted.
        make: makes the environment; default: gymnasium's of the search's name.

    Returns:
        Episodes whose infos hold ``snapshot`` [T], the number of the snapshot that acted (-1:
        random); and the metadata of a card, with reference returns as Minari names them.
    """
    began = time.perf_counter()
    snapshots = searched(config.search, make)
    env = (make or maker(config.search.environment))()
    expert = snapshots[best(snapshots)].policy
    low, high = (_reference(env, config, policy) for policy in (None, expert))
    episodes: list[Episode] = []
    for number, act in _actors(config, snapshots, env.action_space.shape[0], low):
        seed = _seed(config, _DATA, len(episodes))
        episode = play(env, act, seed, config.steps, config.sigma if number >= 0 else 0.0)
        episode.infos["snapshot"] = np.full(len(episode), number)
        episodes.append(episode)
        if sum(map(len, episodes)) >= config.transitions:
            break
    return episodes, {
        "behaviour": f"random search, linear policies: {BEHAVIOUR[config.quality]}; "
        f"sigma {config.sigma:g}",
        "statistics": statistics(episodes),
        "references": {"return of random actions": low, "return of the best snapshot": high},
        "ref_min_score": low,
        "ref_max_score": high,
        "environment_steps": sum(map(len, episodes)) + snapshots[-1].steps,
        "seconds": time.perf_counter() - began,
    }


def best(snapshots: list[Snapshot]) -> int:
    """Number of the snapshot of the highest score."""
    return max(range(len(snapshots)), key=lambda i: snapshots[i].score)


def medium(snapshots: list[Snapshot], random: float) -> int:
    """Number of the snapshot nearest to half way from the ``random`` return to the best score."""
    half = (random + snapshots[best(snapshots)].score) / 2
    return min(range(len(snapshots)), key=lambda i: abs(snapshots[i].score - half))


def _actors(
    config: LocomotionData, snapshots: list[Snapshot], actions: int, low: float
) -> Iterator[tuple[int, Act]]:
    """Who acts in each episode, without end: the snapshot's number, and its policy."""
    rng = np.random.default_rng([config.seed, _DATA])
    middle, top = medium(snapshots, low), best(snapshots)
    in_turn = {"medium": [middle], "expert": [top], "medium-expert": [middle, top]}
    if config.quality == "random":
        while True:
            yield -1, lambda _: rng.uniform(-1.0, 1.0, actions)
    if config.quality in in_turn:
        while True:
            for number in in_turn[config.quality]:
                yield number, snapshots[number].policy
    last = middle if config.quality == "replay" else len(snapshots) - 1
    count = -(-config.transitions // config.steps)  # episodes, if none ends early
    while True:
        for number in np.linspace(0, last, count).round().astype(int):
            policy = snapshots[number].policy
            direction = rng.standard_normal(policy.weights.shape)
            yield int(number), policy.moved(config.search.noise * direction)


def _reference(env: Any, config: LocomotionData, policy: Act | None) -> float:
    """Mean return over the scored steps; of uniform actions, if there is no policy."""
    rng = np.random.default_rng([config.seed, _REFERENCE])
    size = env.action_space.shape[0]
    act = policy or (lambda _: rng.uniform(-1.0, 1.0, size))
    returns = [
        play(env, act, _seed(config, _REFERENCE, i), config.scored_steps).rewards.sum(dtype=float)
        for i in range(config.reference_episodes)
    ]
    return float(np.mean(returns))


def _seed(config: LocomotionData, stream: int, number: int) -> int:
    key = [config.seed, stream, number]
    return int(np.random.SeedSequence(key).generate_state(1, np.uint32)[0] >> 1)
