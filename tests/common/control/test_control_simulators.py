"""MuJoCo environments in a batch: checkpoints, limits, units."""

from __future__ import annotations

import numpy as np
import pytest

from common.control.simulators import Simulators, make_simulators


def batch(env_id: str, seeds: tuple[int, ...], limit: int) -> Simulators:
    return Simulators(make_simulators(env_id, len(seeds)), seeds, limit)


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Hopper-v5"])
def test_they_go_on_bit_for_bit(env_id: str) -> None:
    first, second = batch(env_id, (0, 1), 25), batch(env_id, (5, 6), 25)
    n = first.envs[0].action_space.shape[0]
    actions = np.random.default_rng(0).uniform(-1, 1, (60, 2, n))
    for a in actions[:30]:
        first.step(a)
    second.load(first.state())
    for a in actions[30:]:  # with resets on the way
        for ours, theirs in zip(first.step(a), second.step(a), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(first.observation, second.observation)


def test_a_time_limit_resets_and_does_not_terminate() -> None:
    envs = batch("HalfCheetah-v5", (0, 0), 3)
    for t in range(1, 7):
        following, _, terminated = envs.step(np.zeros((2, 6)))
        assert not terminated.any()
        assert np.array_equal(following, envs.observation) == (t % 3 != 0)


def test_actions_come_in_the_environments_units() -> None:
    humanoid = batch("Humanoid-v5", (0,), 10)
    np.testing.assert_allclose(humanoid.units(np.ones((1, 17))), 0.4, rtol=1e-6)


def test_a_fall_terminates() -> None:
    hopper = batch("Hopper-v5", (0,), 1_000)
    ended = [hopper.step(np.ones((1, 3)))[2][0] for _ in range(100)]
    assert any(ended)
