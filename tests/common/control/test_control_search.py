"""Random search on a task whose best policy is known, and the data of its snapshots."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.spaces import Box

from common.control import random_search
from common.control.cards import card
from common.control.locomotion_data import (
    LocomotionData,
    best,
    generate,
    locomotion_episodes,
    medium,
)
from common.control.random_search import (
    SEARCHES,
    LinearPolicy,
    Moments,
    SearchConfig,
    Snapshot,
    play,
    reaching,
    search,
    searched,
)
from common.control.scores import D4RL_RETURNS, normalized, references
from common.control.trajectories import joined
from common.errors import UserError

WANTED = np.array([[1.2, -0.9], [0.6, 1.5]])


class Aim:
    """The reward is |y|^2 - |a - y|^2 with y = clip(W* o) and a in units of the box [-2, 2].

    It falls where ``falls`` says.
    """

    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Box(-2.0, 2.0, (2,))
    falls = 99

    def reset(self, seed):
        self.rng, self.t = np.random.default_rng(seed), 0
        self.o = self.rng.uniform(-1, 1, 2)
        return self.o, {}

    def step(self, action):
        wanted = np.clip(WANTED @ self.o, -1, 1)
        reward = float((wanted**2).sum() - ((action / 2 - wanted) ** 2).sum())
        self.o, self.t = self.rng.uniform(-1, 1, 2), self.t + 1
        return self.o, reward, self.t >= self.falls, False, {}


CONFIG = SearchConfig("aim", steps=10, iterations=25, directions=6, best=4, noise=0.1, step=0.1)
DATA = LocomotionData(
    CONFIG, "medium", transitions=100, steps=10, scored_steps=10, sigma=0.1, reference_episodes=40
)


@pytest.fixture(scope="module")
def snapshots():
    return search(CONFIG, Aim)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path))
    return tmp_path


def test_the_search_finds_the_policy(snapshots):
    last = snapshots[-1].policy
    assert last.weights / last.std == pytest.approx(WANTED, abs=0.4)
    exact = LinearPolicy(WANTED, np.zeros(2), np.ones(2))

    def mean_return(policy):
        return np.mean([play(Aim(), policy, seed, 10).rewards.sum() for seed in range(50)])

    assert mean_return(exact) > mean_return(last) > 0.95 * mean_return(exact)
    assert snapshots[-1].score > 5 > 1 > snapshots[0].score
    assert [s.steps for s in snapshots] == [40 + 160 * i for i in range(26)]
    assert (snapshots[0].policy.weights == 0).all()


def test_a_search_is_made_once_and_the_same_again(snapshots, cache):
    first = searched(CONFIG, Aim)
    again = searched(CONFIG, lambda: pytest.fail("it is in the cache"))
    for a, b, c in zip(snapshots, first, again, strict=True):
        assert np.array_equal(a.policy.weights, b.policy.weights)
        assert np.array_equal(b.policy.weights, c.policy.weights)
        assert (a.steps, a.score) == (c.steps, c.score)
    (kept,) = (cache / "random-search").glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    assert len(searched(CONFIG, Aim)) == 26  # damaged: made again
    assert searched(replace(CONFIG, seed=1), Aim)[-1].score != snapshots[-1].score


def test_moments_are_those_of_all_rows():
    rows = np.random.default_rng(0).normal(3, 2, (50, 3))
    rows[:, 2] = 7.0
    moments = Moments(3)
    for part in np.split(rows, [1, 7, 30]):
        moments.add(part)
    assert moments.mean == pytest.approx(rows.mean(0))
    assert moments.std == pytest.approx([rows[:, 0].std(), rows[:, 1].std(), 1.0])


def test_an_episode_tells_the_end_from_the_time_limit():
    env = Aim()
    policy = LinearPolicy(WANTED, np.zeros(2), np.ones(2))
    whole = play(env, policy, 3, 5)
    assert whole.truncations.tolist() == [False] * 4 + [True] and not whole.terminations.any()
    wanted = np.clip(whole.observations[:-1] @ WANTED.T, -1, 1)
    assert whole.actions == pytest.approx(wanted, abs=1e-6)  # in [-1, 1], and the box's units
    assert whole.rewards == pytest.approx((wanted**2).sum(-1), abs=1e-5)  # are undone
    env.falls = 3
    fallen = play(env, policy, 3, 5)
    assert fallen.terminations.tolist() == [False, False, True] and not fallen.truncations.any()
    assert np.array_equal(fallen.observations, whole.observations[:4])
    noisy = play(env, policy, 3, 5, sigma=5.0)
    assert np.abs(noisy.actions).max() == 1.0 and not np.array_equal(noisy.actions, fallen.actions)


def test_qualities_are_in_their_order(snapshots, cache):
    made = {}
    for quality in ("random", "medium", "replay", "medium-expert", "expert", "full-replay"):
        episodes, metadata = generate(replace(DATA, quality=quality), Aim)
        assert sum(map(len, episodes)) == 100
        flat = joined(episodes)
        assert np.abs(flat.actions).max() <= 1
        score = normalized(flat.returns, *references(metadata)).mean()
        made[quality] = score, [int(e.infos["snapshot"][0]) for e in episodes]
    scores = {quality: score for quality, (score, _) in made.items()}
    assert abs(scores["random"]) < 25 and scores["expert"] > 85  # sigma costs the expert a little
    assert scores["random"] < scores["medium"] < scores["medium-expert"] < scores["expert"]
    top = best(snapshots)
    (middle,) = set(made["medium"][1])
    assert 0 < middle < top and set(made["random"][1]) == {-1}
    assert made["medium-expert"][1] == [middle, top] * 5
    assert made["replay"][1][0] == 0 and max(made["replay"][1]) == middle
    assert made["full-replay"][1] == sorted(made["full-replay"][1])
    assert made["full-replay"][1][-1] == len(snapshots) - 1


def test_early_ends_are_made_up_for(cache):
    class Falling(Aim):
        falls = 3

    episodes, metadata = generate(DATA, Falling)
    assert len(episodes) == 34 and all(e.terminations[-1] for e in episodes)
    assert metadata["statistics"]["terminated"] == 34


def test_the_data_are_cached_with_a_card(cache):
    episodes, metadata = locomotion_episodes(DATA, Aim)
    again, _ = locomotion_episodes(DATA, lambda: pytest.fail("it is in the cache"))
    assert all(np.array_equal(a.actions, b.actions) for a, b in zip(episodes, again, strict=True))
    assert metadata["environment_steps"] == 100 + 40 + 25 * 160
    text = card(metadata)
    assert "half way" in text and "return of random actions" in text and "sigma 0.1" in text


def test_the_middle_is_half_way():
    def snapshot(score):
        return Snapshot(LinearPolicy(WANTED, np.zeros(2), np.ones(2)), 0, score)

    ladder = [snapshot(score) for score in (-9, -2, 3, 8, 6)]
    assert best(ladder) == 3 and medium(ladder, -14.0) == 1 and medium(ladder, 0.0) == 2


def test_reachers_features_are_the_jacobian_times_the_error():
    pytest.importorskip("mujoco", reason="needs the extra 'control'")
    env = random_search.maker("Reacher-v5")()
    observation, _ = env.reset(seed=0)
    found = reaching(observation)
    error = env.data.body("target").xpos[:2] - env.data.body("fingertip").xpos[:2]
    h, wanted = 1e-6, []
    for joint in range(2):
        tips = []
        for sign in (1, -1):
            qpos = env.data.qpos.copy()
            qpos[joint] += sign * h
            env.set_state(qpos, env.data.qvel.copy())
            tips.append(env.data.body("fingertip").xpos[:2].copy())
            qpos[joint] -= sign * h
            env.set_state(qpos, env.data.qvel.copy())
        wanted.append(((tips[0] - tips[1]) / (2 * h)) @ error)
    assert found[:2] == pytest.approx(wanted, abs=1e-4)
    assert np.array_equal(found[2:], observation[6:8])


@pytest.mark.parametrize("name", SEARCHES)
def test_the_named_environments_are_there(name):
    pytest.importorskip("mujoco", reason="needs the extra 'control'")
    assert SEARCHES[name].environment == name
    config = replace(SEARCHES[name], steps=5, iterations=1, directions=1, best=1)
    first, last = search(config)
    assert np.isfinite([first.score, last.score]).all() and (last.policy.weights != 0).any()


def test_scores_at_their_references():
    low, high = D4RL_RETURNS["hopper"]
    assert normalized([low, high, (low + high) / 2], low, high) == pytest.approx([0, 100, 50])
    assert references({"ref_min_score": 1, "ref_max_score": 3.5}) == (1.0, 3.5)
    with pytest.raises(UserError, match="no reference returns"):
        references({"dataset_id": "some/thing-v0"})
    with pytest.raises(ValueError, match="not above"):
        normalized([1.0], 2.0, 2.0)
