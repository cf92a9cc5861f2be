"""Experiment A: the expert's statistics, the judging of paths, the metrics."""

import numpy as np
import pytest

from papers.ofp import point_mass as pm


@pytest.fixture(scope="module")
def demos():
    return pm.expert_episodes(100, np.random.default_rng(3))


def first_chunks(n, seed):
    _, actions = pm.expert_episodes(n, np.random.default_rng(seed), start=np.zeros(2))
    return np.stack([a[: pm.HORIZON] for a in actions])


def test_expert_statistics(demos):
    paths, actions = demos
    lengths = [len(p) for p in paths]  # positions
    assert min(lengths) >= 17 and max(lengths) <= 22 and len(set(lengths)) > 2
    closest = min(np.linalg.norm(p - pm.DISC, axis=1).min() for p in paths)
    assert closest == pytest.approx(0.22, abs=0.02)
    for radius in pm.RADII:
        success = [pm.judge_paths(p, radius)[0] for p in paths]
        assert all(success)
    sides = [np.sign(p[np.abs(p[:, 1]).argmax(), 1]) for p in paths]
    assert sides == [1, -1] * 50  # exactly balanced
    assert all(np.abs(a).max() <= 1 for a in actions)


def test_expert_first_chunks():
    chunks = first_chunks(1000, 4)
    y = np.abs(pm.lateral_displacement(chunks))
    assert y.mean() == pytest.approx(0.275, abs=0.004)
    assert y.std() == pytest.approx(0.018, abs=0.002)
    metrics = pm.start_metrics(chunks[:500], chunks[500:])
    assert metrics["on_mode"] == 1.0
    assert metrics["side_entropy"] == pytest.approx(1.0)


def test_w1_floor_between_experts():
    """.57 with sides drawn at random on both ends (.05 from draw to draw)."""
    chunks = first_chunks(6000, 5)
    rng = np.random.default_rng(6)
    floors = [
        pm.start_metrics(*np.split(chunks[rng.permutation(6000)[:1000]], 2))["w1"] for _ in range(8)
    ]
    assert np.mean(floors) == pytest.approx(0.57, abs=0.05)


def test_collapsed_chunks_are_told_from_the_expert():
    chunks = first_chunks(1000, 4)
    mean = np.repeat(chunks.mean(0, keepdims=True), 500, axis=0)
    one_side = np.repeat(chunks[::2], 1, axis=0)
    assert pm.start_metrics(mean, chunks[:500])["on_mode"] == 0
    assert pm.start_metrics(mean, chunks[:500])["w1"] > 1.2
    assert pm.start_metrics(one_side, chunks[:500])["side_entropy"] == 0
    assert pm.start_metrics(one_side, chunks[:500])["w1"] > 1.2


def test_windows_repeat_at_both_ends_and_stay_in_their_episode():
    paths = [np.arange(8.0).reshape(4, 2), 100 + np.arange(6.0).reshape(3, 2)]
    actions = [np.arange(6.0).reshape(3, 2), 100 + np.arange(4.0).reshape(2, 2)]
    obs, chunks = pm.cut_windows(paths, actions, horizon=4)
    assert len(obs) == len(chunks) == 5
    np.testing.assert_array_equal(obs[0], [0, 1, 0, 1])
    np.testing.assert_array_equal(obs[1], [0, 1, 2, 3])
    np.testing.assert_array_equal(chunks[1], [[2, 3], [4, 5], [4, 5], [4, 5]])
    np.testing.assert_array_equal(obs[3], [100, 101, 100, 101])
    assert (chunks[:3] < 50).all() and (chunks[3:] >= 100).all()


def test_about_two_thousand_standardised_windows():
    task = pm.PointMass((0, 1))
    obs, actions = task.windows(0)
    assert 1900 < len(obs) < 2100 and actions.shape[1:] == (8, 2)
    np.testing.assert_allclose(obs.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(obs.std(0), 1, atol=1e-3)
    assert not np.array_equal(task.windows(1)[0][:5], obs[:5])  # each seed has its own


def straight(y):
    x = np.linspace(0, 1, 30)
    return np.stack([x, np.full(30, y) * np.sin(np.pi * x)], axis=1)


@pytest.mark.parametrize(
    ("y", "radius", "success", "collision"),
    [(0.3, 0.20, True, False), (0.1, 0.12, False, True), (0.14, 0.12, True, False)],
)
def test_paths_are_judged_by_what_comes_first(y, radius, success, collision):
    ok, hit, _ = pm.judge_paths(straight(y), radius)
    assert (bool(ok), bool(hit)) == (success, collision)


def test_disc_after_the_goal_does_not_count_and_goal_after_the_disc_neither():
    there = straight(0.3)
    back = straight(0.0)[::-1]
    ok, hit, end = pm.judge_paths(np.concatenate((there, back)), 0.2)
    assert ok and not hit and end < 30
    ok, hit, _ = pm.judge_paths(np.concatenate((straight(0.0), back)), 0.2)
    assert hit and not ok
    ok, hit, _ = pm.judge_paths(straight(0.3)[:15], 0.2)
    assert not ok and not hit  # time is over


class Scripted:
    """Follows the expert without noise, upwards in even episodes."""

    def __init__(self, task):
        self.task = task

    def reset(self, n):
        self.calls = 0

    def __call__(self, obs, active):
        self.calls += 1
        now = (obs * self.task.std + self.task.mean)[..., 2:]
        S, E = now.shape[:2]
        p = now.reshape(-1, 2).copy()
        side = np.tile(np.where(np.arange(E) % 2 == 0, 1.0, -1.0), S)
        passed = p[:, 0] > 0.45
        chunk = []
        for _ in range(pm.HORIZON):
            a, passed = pm.expert_action(p, side, passed, np.zeros_like(p))
            p = p + pm.SPEED * a
            chunk.append(a)
        return np.stack(chunk, 1).reshape(S, E, pm.HORIZON, 2).astype(np.float32)


def test_rollout_of_the_script_succeeds_on_both_sides():
    task = pm.PointMass((0, 1, 2))
    policy = Scripted(task)
    result = task.rollout(policy, range(9000, 9006), record=4)
    assert result["success"].shape == (3, 6) and result["success"].all()
    assert (result["success"] == result["success@0.15"]).all()
    assert not result["collision@0.20"].any()
    assert policy.calls <= 6  # 20 steps of 4 per chunk, then everybody has arrived
    paths = result["paths"]
    assert paths.shape[:2] == (3, 4)
    assert (paths[:, ::2, :, 1].max(-1) > 0.2).all() and (paths[:, 1::2, :, 1].min(-1) < -0.2).all()
    assert ((result["steps"] >= 17) & (result["steps"] <= 22)).all()


def test_rollout_through_the_middle_collides():
    class Ahead(Scripted):
        def __call__(self, obs, active):
            chunk = np.zeros((*obs.shape[:2], pm.HORIZON, 2), np.float32)
            chunk[..., 0] = 5.0  # clipped to 1
            return chunk

    task = pm.PointMass((0,))
    result = task.rollout(Ahead(task), range(5))
    assert not result["success"].any()
    for radius in pm.RADII:
        assert result[f"collision@{radius:.2f}"].all()
