"""Episodes of different lengths: collected, kept, padded and put back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from common.marl.episodes import (
    EpisodeBuffer,
    batch_of,
    collect,
    divided,
    joined,
    outcomes,
    play,
)
from common.marl.protocol import Seen, Step


class Countdown:
    """Environment e counts down from e + 1 (cut by the limit at 3); the reward is what is left."""

    name, n_agents, obs_dim, state_dim, n_actions, action_dim = "countdown", 2, 1, 1, 3, 0
    episode_limit, n_types = 3, 1

    def __init__(self, n_envs: int = 4) -> None:
        self.n_envs = n_envs

    def _seen(self) -> Seen:
        left = self.left.astype(np.float32)
        shape = (self.n_envs, 2)
        return Seen(
            np.repeat(left[:, None, None], 2, 1),
            left[:, None],
            np.ones((*shape, 3), bool),
            np.ones(shape, bool),
            np.zeros(shape, np.int64),
        )

    def reset(self, seed: int) -> Seen:
        self.seed, self.t = seed, np.zeros(self.n_envs, np.int64)
        self.left = np.arange(self.n_envs) + 1
        return self._seen()

    def step(self, actions: Any) -> Step:
        running = (self.left > 0) & (self.t < 3)
        reward = np.where(running, self.left, 0).astype(np.float32)
        self.left = self.left - running
        self.t += running
        done = self.left == 0
        return Step(self._seen(), reward, done, ~done & (self.t == 3), done & running)


def act(seen: Seen, t: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.full(seen.alive.shape, t % 3, np.int64)


def test_collected_episodes_have_their_own_lengths_and_ends() -> None:
    episodes = collect(Countdown(), act, 5)  # type: ignore[arg-type]
    ended = outcomes(episodes)
    assert ended.lengths.tolist() == [1, 2, 3, 3]
    assert ended.returns.tolist() == [1.0, 3.0, 6.0, 9.0]
    assert ended.won.tolist() == [True, True, True, False]
    assert episodes[3]["terminated"].tolist() == [0.0, 0.0, 0.0]  # cut
    assert episodes[1]["terminated"].tolist() == [0.0, 1.0]
    assert episodes[1]["obs"][:, 0, 0].tolist() == [2.0, 1.0, 0.0]  # the last one, too
    assert episodes[2]["actions"][:, 0].tolist() == [0, 1, 2]


def test_a_batch_is_padded_and_says_where() -> None:
    batch = batch_of(collect(Countdown(), act, 5))  # type: ignore[arg-type]
    assert (len(batch), batch.steps) == (4, 3)
    assert batch.obs.shape == (4, 4, 2, 1) and batch.actions.shape == (4, 3, 2)
    assert batch.filled.sum(1).tolist() == [1.0, 2.0, 3.0, 3.0]
    assert batch.reward[0].tolist() == [1.0, 0.0, 0.0]
    assert batch.avail.all() and batch.avail.dtype == torch.bool
    assert batch.terminated.sum(1).tolist() == [1.0, 1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="episode"):
        batch_of([])


def test_the_buffer_forgets_the_oldest_and_draws_without_replacement() -> None:
    buffer = EpisodeBuffer(6)
    for seed in range(2):
        buffer.add(collect(Countdown(), act, seed))  # type: ignore[arg-type]
    assert len(buffer) == 6 and buffer.n_steps == 3 + 3 + 1 + 2 + 3 + 3
    rng = np.random.default_rng(0)
    drawn = buffer.draw(6, rng)
    assert len({id(e) for e in drawn}) == 6
    assert len(buffer.draw(99, rng)) == 6
    assert len(buffer.sample(2, rng)) == 2


def test_a_buffer_comes_back_from_its_state() -> None:
    episodes = collect(Countdown(), act, 5)  # type: ignore[arg-type]
    for e in episodes:
        e["bonus"] = np.arange(len(e["reward"]), dtype=np.float32)
    one, other = EpisodeBuffer(4), EpisodeBuffer(4)
    one.add(episodes)
    other.load_state_dict(one.state_dict())
    for a, b in zip(one.episodes, other.episodes, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    assert batch_of(list(other.episodes)).extra["bonus"].shape == (4, 3)
    assert divided(joined([])) == []


def test_play_gives_every_environment_the_same_number_of_episodes() -> None:
    env, made = Countdown(), []

    def actor() -> Any:
        made.append(env)
        return act

    episodes = play(env, actor, 6, 0)  # type: ignore[arg-type]
    assert outcomes(episodes).lengths.tolist() == [1, 2, 3, 3, 1, 2]
    assert len(made) == 2 and env.seed == 1
