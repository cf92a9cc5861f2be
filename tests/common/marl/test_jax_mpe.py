"""Particle worlds: rewards counted again in NumPy, preys that flee, 25 steps."""

import numpy as np
import pytest

from common.errors import UserError
from common.marl import jax_envs, jax_mpe
from common.marl.jax_mpe import JaxMpe
from tests.common.marl.checks import conforms

pytest.importorskip("jaxmarl.environments.mpe", reason="needs the extra 'marl'")

E = 16


@pytest.fixture(scope="module")
def crowds():
    return JaxMpe("facmac_mpe", E)


@pytest.fixture(scope="module")
def flight():
    return JaxMpe("facmac_distinct", E, preys="fleeing")


@pytest.fixture(scope="module")
def spread():
    return JaxMpe("spread", E)


def distances(state):
    """Between predators and preys, [E, 4, 2]."""
    predators, preys = state[:, :8].reshape(E, 4, 1, 2), state[:, 8:12].reshape(E, 1, 2, 2)
    return np.sqrt(((predators - preys) ** 2).sum(-1))


def chase(seen):
    """Every predator goes for the prey that it sees nearest (observations: obstacles first)."""
    gaps = seen.obs[..., 14:18].reshape(E, 4, 2, 2)
    near = (gaps**2).sum(-1).argmin(-1)
    gap = np.take_along_axis(gaps, near[..., None, None], 2)[:, :, 0]
    along = np.abs(gap).argmax(-1)
    ahead = np.take_along_axis(gap, along[..., None], 2)[..., 0] > 0
    return 1 + 2 * along + ahead


def course(env, act, seed=0):
    """An episode: what was seen first, and the steps."""
    first = seen = env.reset(seed)
    steps = []
    for _ in range(25):
        steps.append(env.step(act(seen)))
        seen = steps[-1].seen
    return first, steps


def test_protocol(crowds, flight, spread):
    conforms(crowds, twin=JaxMpe("facmac_mpe", E))
    conforms(flight)
    conforms(spread)


def test_sizes(crowds, flight, spread):
    for env in (crowds, flight):
        assert (env.n_agents, env.obs_dim, env.state_dim, env.n_actions) == (4, 20, 28, 5)
    assert (spread.n_agents, spread.obs_dim, spread.state_dim, spread.n_actions) == (3, 18, 18, 5)
    assert (crowds.n_types, crowds.episode_limit, crowds.name) == (1, 25, "mpe:facmac_mpe")


def test_25_steps_and_no_end(crowds):
    _, steps = course(crowds, chase)
    for number, step in enumerate(steps, 1):
        assert (step.truncated == (number == 25)).all()
        assert not step.terminated.any() and not step.won.any()


def test_observations_tell_where_the_others_are(crowds):
    seen = crowds.reset(1)
    points = seen.state[:, :16].reshape(E, 8, 2)
    for agent in range(4):
        others = [6, 7, *(i for i in range(6) if i != agent)]
        expected = points[:, others] - points[:, [agent]]
        np.testing.assert_allclose(seen.obs[:, agent, 2:4], points[:, agent], atol=1e-6)
        np.testing.assert_allclose(seen.obs[:, agent, 4:18], expected.reshape(E, 14), atol=1e-6)


def test_actions_push(crowds):
    """Force 3 for 0.1 s at mass 1, for the predators that nobody touches."""
    pushes = {0: (0, 0), 1: (-0.3, 0), 2: (0.3, 0), 3: (0, -0.3), 4: (0, 0.3)}
    for action, push in pushes.items():
        crowds.reset(2)
        seen = crowds.step(np.full((E, 4), action)).seen
        velocities = seen.state[:, 16:24].reshape(-1, 2)
        np.testing.assert_allclose(np.median(velocities, 0), push, atol=1e-3)


def test_reward_counts_who_touches(crowds):
    _, steps = course(crowds, chase)
    crowd = 0
    for step in steps:
        touching = distances(step.seen.state) < 0.125
        np.testing.assert_allclose(step.reward, 10.0 * touching.sum((1, 2)))
        crowd = max(crowd, touching.sum(1).max())
    assert crowd > 1  # two at one prey count twice


def test_reward_is_that_of_jaxmarl(crowds):
    import jax

    rewards = jax.jit(jax.vmap(jax_mpe.facmac_simulator().rewards))
    seen, touched = crowds.reset(0), 0
    for _ in range(10):
        step = crowds.step(chase(seen))
        seen = step.seen
        np.testing.assert_allclose(step.reward, rewards(crowds._begun.state)["adversary_0"])
        touched += (step.reward > 0).sum()
    assert touched > 10


def test_distinct_reward_counts_preys_once(flight):
    _, steps = course(flight, chase)
    crowd = 0
    for step in steps:
        apart = distances(step.seen.state)
        touching = apart < 0.125
        expected = 10.0 * touching.any(1).sum(1) - 0.1 * apart.min(1).mean(1)
        np.testing.assert_allclose(step.reward, expected, atol=1e-5)
        crowd = max(crowd, touching.sum(1).max())
    assert crowd > 1


def test_spread_is_the_sum_over_agents(spread):
    generator = np.random.default_rng(0)
    _, steps = course(spread, lambda seen: generator.integers(0, 5, (E, 3)))
    bumped = 0
    for step in steps:
        points = step.seen.state[:, :12].reshape(E, 6, 2)
        agents, landmarks = points[:, :3], points[:, 3:]
        near = np.linalg.norm(agents[:, :, None] - landmarks[:, None], axis=-1).min(1).sum(1)
        bumps = np.linalg.norm(agents[:, :, None] - agents[:, None], axis=-1) < 0.3
        bumps = bumps.sum((1, 2)) - 3  # each of a pair has its own
        np.testing.assert_allclose(step.reward, -0.5 * bumps - 1.5 * near, atol=1e-4)
        bumped += bumps.sum()
    assert bumped


def test_preys_flee_where_they_do_and_stand_where_they_do_not(crowds, flight):
    def still(seen):
        return np.zeros((E, 4), int)

    for env, low, high in ((crowds, 0.0, 0.15), (flight, 0.6, 1.2)):
        first, steps = course(env, still)
        way = jax_mpe.positions(steps[-1].seen.state)[1] - jax_mpe.positions(first.state)[1]
        assert low < np.median(np.linalg.norm(way, axis=-1)) < high


def test_a_prey_heads_away_from_predators_past_what_stands_in_its_way():
    import jax

    fleeing = jax.jit(jax_mpe.fleeing, static_argnums=3)

    def force(predators, others, radii=(0.05, 0.05, 0.2, 0.2), seed=0):
        points = np.array([*predators, [0.0, 0.0], *others])  # the prey is in the middle
        return np.asarray(
            fleeing(jax.random.PRNGKey(seed), points, np.array([0.075] * 4 + [*radii]), 4)
        )

    far = [[9.0, 9.0], [9.0, -9.0], [9.0, 0.0]]
    for seed, turn in enumerate((0.0, 0.8, 2.4, 4.0, 5.5)):  # the whole circle
        toward = np.array([np.cos(turn), np.sin(turn)])
        away = force([toward * r for r in (0.5, 0.6, 0.7, 0.8)], far, seed=seed)
        assert 0.85 < -away @ toward <= np.linalg.norm(away) <= 1.0
    left = [[-0.5, 0.1], [-0.5, -0.1], [-0.6, 0.1], [-0.6, -0.1]]
    around = force(left, [[9.0, 9.0], [0.6, 0.0], [0.6, 0.0]], (0.05, 0.05, 0.4, 0.4))
    assert np.linalg.norm(around) > 0.5 and abs(around[1]) > 0.4  # not through the obstacle
    shut = force(left, [*far[:2], [0.5, 0.5]], (0.05, 0.05, 0.2, 2.0))
    np.testing.assert_array_equal(shut, 0.0)


def test_covered():
    state = np.zeros((3, 28), np.float32)
    state[:, :12] = [*(0, 0), *(5, 5), *(9, 9), *(9, 9), *(0.2, 0.2), *(5.0, 5.25)]
    state[1, 8:10] = [0.25, 0.25]  # 0.35 from its nearest
    state[2, 10:12] = [0.1, 0.0]  # one predator near both
    np.testing.assert_array_equal(jax_mpe.covered(state), [True, False, True])
    np.testing.assert_array_equal(jax_mpe.covered(state[None]), [[True, False, True]])
    predators, preys = jax_mpe.positions(state)
    np.testing.assert_array_equal(predators[0, 1], [5, 5])
    np.testing.assert_array_equal(preys[2, 1], np.float32([0.1, 0.0]))


def test_bad_input(monkeypatch):
    with pytest.raises(UserError, match="unknown MPE scenario 'facmac'; did you mean facmac_mpe"):
        JaxMpe("facmac", 2)
    with pytest.raises(UserError, match="unknown kind of preys 'fleeting'; did you mean fleeing"):
        JaxMpe("facmac_mpe", 2, preys="fleeting")
    with pytest.raises(UserError, match="one at least"):
        JaxMpe("spread", 0)
    monkeypatch.setattr(jax_envs, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="'jaxmarl' is missing"):
        JaxMpe("spread", 3)
