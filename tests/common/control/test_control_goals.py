"""Meta-World by goals: whose episodes they are, what their infos say, what the cache keeps."""

from dataclasses import replace

import numpy as np
import pytest

from common.control import metaworld_goals
from common.control.cards import card, digest, statistics
from common.control.episodes import Episode
from common.control.metaworld import TaskSimulator
from common.control.metaworld_goals import (
    GoalData,
    evaluation,
    generate,
    goal_episodes,
    held_out,
    hidden,
    near_optimal,
    sub_optimal,
    without_goal,
)

pytest.importorskip("metaworld", reason="needs the extra 'control'")
CONFIG = GoalData("reach-v3", episodes=6, steps=80, goals=4)


@pytest.fixture(scope="module")
def reach():
    return TaskSimulator("reach-v3")


@pytest.fixture(scope="module")
def made(reach):
    return generate(CONFIG, reach)


def test_goals_and_noise_take_turns(made):
    episodes, _ = made
    assert [int(e.infos["goal"][0]) for e in episodes] == [0, 1, 2, 3, 0, 1]
    assert [float(e.infos["sigma"][0]) for e in episodes] == [0.0, 0.1, 0.3, 0.5, 0.1, 0.3]
    for e in episodes:
        assert len(e) == 80 and e.observations.shape == (81, 39)
        assert not e.terminations.any() and e.truncations.tolist() == [False] * 79 + [True]
        assert all(len(e.infos[name]) == 80 for name in ("goal", "sigma", "success"))
        assert (np.diff(e.infos["success"].astype(int)) >= 0).all()


def test_a_goal_is_the_same_in_every_episode_and_differs_from_the_others(made, reach):
    episodes, _ = made
    starts = [e.observations[0] for e in episodes]
    assert np.array_equal(starts[0], starts[4]) and np.array_equal(starts[1], starts[5])
    assert len({s.tobytes() for s in starts}) == 4
    assert np.array_equal(reach.goal(2).obs, starts[2])
    others = [e.obs for e in evaluation(reach, 12)]
    assert (
        np.array_equal(others[3], reach.goal(43).obs) and len({o.tobytes() for o in others}) == 12
    )
    others += [reach.evaluation(n).obs for n in range(4)]
    assert not {o.tobytes() for o in others} & {s.tobytes() for s in starts}


def test_the_experts_action_is_what_was_done_without_noise(made):
    for e in made[0]:
        sigma, wanted = e.infos["sigma"][0], e.infos["expert_action"]
        if sigma == 0:
            assert np.array_equal(e.actions, wanted)
        else:
            free = np.abs(e.actions) < 1
            assert np.std((e.actions - wanted)[free]) > 0.3 * sigma
    assert made[0][0].infos["success"][-1]


def test_actions_bring_forth_the_observations(made, reach):
    e = made[0][3]
    again = reach.goal(3)
    for t in range(len(e)):
        again.step(e.actions[t])
        assert np.array_equal(again.obs, e.observations[t + 1])
        assert np.float32(again.reward) == e.rewards[t]


def test_random_actions_are_as_frequent_as_asked(reach):
    config = replace(CONFIG, sigmas=(0.0,), random=0.3)
    episodes, _ = generate(config, reach)
    other = np.concatenate([(e.actions != e.infos["expert_action"]).all(-1) for e in episodes])
    assert 0.21 < other.mean() < 0.39  # 480 draws: .3 with standard deviation .021


def test_the_cache_keeps_the_data_its_card_and_its_digest(made, reach, tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path))
    calls = []
    monkeypatch.setattr(
        metaworld_goals, "generate", lambda *given: calls.append(given) or generate(*given)
    )
    episodes, metadata = goal_episodes(CONFIG, reach)
    again, _ = goal_episodes(CONFIG, reach)
    assert len(calls) == 1
    assert digest(again) == digest(made[0]) == metadata["statistics"]["sha256"]
    assert set(metadata["success_rate"]) == {"0", "0.1", "0.3", "0.5"}
    text = card(metadata, "reach")
    for part in ("scripted expert", "0.3", "6 episodes, 480 steps", metadata["config_hash"]):
        assert part in text
    goal_episodes(replace(CONFIG, steps=81), reach)
    assert len(calls) == 2


def test_qualities_and_what_is_held_out():
    near, sub = near_optimal("reach-v3"), sub_optimal("pick-place-v3")
    assert (near.episodes, near.steps, near.goals) == (60, 100, 40)
    assert sub.steps == 150 and sub.random > 0 and min(sub.sigmas) > 0
    other = held_out(sub, 7)
    assert (other.episodes, other.stream) == (7, 1)
    assert replace(other, episodes=60, stream=0) == sub


def test_held_out_noise_differs_on_the_same_goals(made, reach):
    other, _ = generate(held_out(CONFIG, 2), reach)
    assert np.array_equal(other[1].observations[0], made[0][1].observations[0])
    assert not np.array_equal(other[1].actions, made[0][1].actions)


def test_a_hidden_goal_is_zero_and_nothing_else_changes(made):
    e = made[0][0]
    seen = without_goal(e)
    assert (seen.observations[:, 36:39] == 0).all()
    assert np.array_equal(seen.observations[:, :36], e.observations[:, :36])
    assert (e.observations[:, 36:39] != 0).any()
    assert np.array_equal(hidden(e.observations[0]), seen.observations[0])


def test_statistics_by_hand_and_a_digest_that_notices():
    def episode(rewards, success):
        T = len(rewards)
        return Episode(
            np.zeros((T + 1, 2), np.float32),
            np.zeros((T, 1), np.float32),
            np.array(rewards, np.float32),
            np.arange(T) == T - 1,
            np.zeros(T, bool),
            {"success": np.array(success)},
        )

    episodes = [episode([1, 2], [False, True]), episode([5], [False])]
    found = statistics(episodes)
    assert (found["episodes"], found["steps"], found["terminated"]) == (2, 3, 2)
    assert (found["return_mean"], found["return_std"]) == (4.0, 1.0)
    assert (found["return_min"], found["return_max"], found["success_rate"]) == (3.0, 5.0, 0.5)
    episodes[1].infos["success"][0] = True
    assert digest(episodes) != found["sha256"]
