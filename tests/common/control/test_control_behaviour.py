"""Mean actions of noisy experts, what experts come to, MTDiff's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.control.behaviour import (
    average_actions,
    expert_outcomes,
    mean_actions,
    wanted_actions,
)
from common.control.decision_rollout import SimulatedBatch
from common.control.episodes import Episode
from common.control.metaworld import TaskSimulator
from common.control.metaworld_goals import near_optimal, sub_optimal
from common.control.mtdiff import mtdiff_episodes
from common.errors import UserError


def test_the_mean_of_noisy_actions_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    clean = np.array([[-1.0, -0.4, 0.2, 1.0]], np.float32)
    for sigma, random in ((0.0, 0.0), (0.3, 0.2), (0.8, 0.0)):
        draws = np.clip(clean + sigma * rng.standard_normal((400_000, 4)), -1, 1)
        found = mean_actions(clean, sigma, random)
        np.testing.assert_allclose(found[0], (1 - random) * draws.mean(0), atol=3e-3)


@pytest.mark.parametrize("make", [near_optimal, sub_optimal])
def test_wanted_is_what_the_behaviour_does_on_average(make: object) -> None:
    config = make("reach-v3")  # type: ignore[operator]
    clean = np.full((2, 4), 0.9, np.float32)
    infos = {"expert_action": clean, "sigma": np.full(2, 0.5)}
    episode = Episode(*(np.zeros(2),) * 5, infos)  # type: ignore[arg-type]
    expected = mean_actions(clean, 0.5, config.random)
    np.testing.assert_array_equal(wanted_actions(episode, config), expected)


def test_the_average_is_what_errs_least_without_knowing_sigma() -> None:
    config, clean = sub_optimal("reach-v3"), np.array([[-0.9, 0.2, 0.5, 1.0]], np.float32)
    means = np.stack([mean_actions(clean, sigma, config.random) for sigma in config.sigmas])
    found = average_actions(clean, config)
    least = np.square(means - found).mean()
    for shift in (-0.01, 0.01):
        assert np.square(means - found - shift).mean() > least


def test_experts_reach_their_goals_and_their_mean_is_slower() -> None:
    simulator = TaskSimulator("handle-press-side-v3")

    def batch() -> SimulatedBatch:
        return SimulatedBatch([simulator.goal(60), simulator.goal(61)])

    clean = expert_outcomes(batch(), simulator.task, 80)
    mean = expert_outcomes(batch(), simulator.task, 80, sub_optimal(simulator.task))
    assert clean.success.all() and (mean.steps >= clean.steps).all()
    assert mean.steps.sum() > clean.steps.sum()


def test_mtdiffs_episodes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAPERS_DATA", raising=False)
    with pytest.raises(UserError, match="MTDiff"):
        mtdiff_episodes("reach-v3", 1)
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    folder = tmp_path / "mtdiff" / "reach-v2"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = {"observations": rng.normal(size=(6, 39)), "actions": rng.uniform(-1, 1, (6, 4))}
    np.savez(folder / "0.npz", rewards=rng.uniform(size=(6, 1)), **arrays)
    np.savez(folder / "1.npz", **arrays)
    [first] = mtdiff_episodes("reach-v3", 1)
    np.testing.assert_allclose(first.observations[:6], arrays["observations"], rtol=1e-6)
    np.testing.assert_allclose(first.actions, arrays["actions"], rtol=1e-6)
    assert first.observations.shape == (7, 39) and first.rewards.shape == (6,)
    assert first.truncations.tolist() == [False] * 5 + [True] and not first.terminations.any()
    with pytest.raises(UserError, match=r"1\.npz is missing or no episode"):
        mtdiff_episodes("reach-v3", 2)
