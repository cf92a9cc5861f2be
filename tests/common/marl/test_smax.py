"""SMAX: the same battles as jaxmarl's, a state that mixers can use, and one compiled program."""

import importlib.util
import sys

import numpy as np
import pytest

from common.errors import UserError
from common.marl import jax_envs, smax
from common.marl.protocol import uniform_actions
from common.marl.smax import Smax
from tests.common.marl.checks import conforms

pytest.importorskip("jaxmarl.environments.smax", reason="needs the extra 'marl'")

E = 4
STOP = 4


@pytest.fixture(scope="module")
def marines():
    return Smax("3m", E)


@pytest.fixture(scope="module")
def mixed():
    return Smax("smacv2_5_units", E)


def stops(env):
    return np.full((env.n_envs, env.n_agents), STOP)


def edited(env, seed, **leaves):
    """``env`` at the start of an episode, with leaves of the simulator's state changed."""
    env.reset(seed)
    state = env.state_dict()
    for name, change in leaves.items():
        (key,) = [k for k in state if k.endswith(name)]
        change(state[key])
    env.load_state_dict(state)


def battles(env, seed, rounds):
    """Random play: returns, wins and lengths of ``rounds`` x E episodes, and the last step."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(rounds):
        seen = env.reset(seed) if number == 0 else env.reset_where(np.ones(env.n_envs, bool))
        total, length = np.zeros(env.n_envs), np.zeros(env.n_envs)
        over = np.zeros(env.n_envs, bool)
        while not over.all():
            step = env.step(uniform_actions(seen, generator))
            total, length, seen = total + step.reward, length + ~over, step.seen
            over |= step.terminated | step.truncated
        found.append((total, step.won, length))
    return [np.concatenate(column) for column in zip(*found, strict=True)]


def test_protocol(marines):
    conforms(marines, twin=Smax("3m", E))


def test_protocol_of_mixed_units(mixed):
    conforms(mixed)


def test_sizes(marines, mixed):
    assert (marines.name, marines.n_agents, marines.obs_dim, marines.n_actions) == (
        *("smax:3m", 3, 75, 8),
    )
    assert (mixed.n_agents, mixed.obs_dim, mixed.n_actions) == (5, 127, 10)
    assert (marines.state_dim, mixed.state_dim) == (60, 100)
    assert marines.n_types == mixed.n_types == 6
    assert marines.episode_limit == 100


def test_same_as_jaxmarl_step_by_step(mixed):
    """From the adapter's state and key, jaxmarl's own step gives what the adapter gives."""
    import jax

    simulator = smax.simulator_of("smacv2_5_units")
    names = simulator.agents

    def one(key, state, actions):
        drawn = jax.random.split(key)[1]
        seen, after, rewards, _, _ = simulator.step_env(
            drawn, state, {name: actions[i] for i, name in enumerate(names)}
        )
        obs = jax.numpy.stack([seen[name] for name in names])
        avail = simulator.get_avail_actions(after)
        choices = jax.numpy.stack([avail[name] for name in names])
        return obs, seen["world_state"], rewards[names[0]], choices

    options = {"xla_backend_optimization_level": 0}
    jaxmarl_step = jax.jit(jax.vmap(one), compiler_options=options)
    generator = np.random.default_rng(0)
    seen, over = mixed.reset(5), np.zeros(E, bool)
    coolest = 0.0
    for _ in range(60):
        before = mixed._begun
        actions = uniform_actions(seen, generator)
        step = mixed.step(actions)
        seen = step.seen
        obs, world, reward, avail = map(
            np.asarray, jaxmarl_step(before.key, before.state, actions.astype(np.int32))
        )
        on = ~over
        np.testing.assert_allclose(seen.obs[on], obs[on], atol=2e-5)
        np.testing.assert_allclose(step.reward[on], reward[on], atol=2e-5)
        np.testing.assert_array_equal(seen.avail[on], avail[on] > 0)
        units = world[:, :100].reshape(E, 10, 10).copy()
        coolest = min(coolest, units[on][..., 3].min(initial=0.0))
        units[..., 1:3] /= 32.0
        units[..., 3] = np.clip(units[..., 3], 0.0, 2.0)
        np.testing.assert_allclose(seen.state[on], units.reshape(E, 100)[on], atol=2e-5)
        over |= step.terminated | step.truncated
        if over.all():
            seen, over = mixed.reset_where(over), np.zeros(E, bool)
    assert coolest < -1.0  # what had to be clipped was seen


def test_state_is_in_the_unit_range(mixed):
    generator = np.random.default_rng(0)
    seen = mixed.reset(11)
    for _ in range(50):
        seen = mixed.step(uniform_actions(seen, generator)).seen
        units = seen.state.reshape(E, 10, 10)
        assert units[..., [0, 1, 2, 4, 5, 6, 7, 8, 9]].min() >= 0.0
        assert units[..., [0, 1, 2, 4, 5, 6, 7, 8, 9]].max() <= 1.0
        assert 0.0 <= units[..., 3].min() and units[..., 3].max() <= 2.0


def test_types_are_those_seen_in_the_own_features(mixed):
    seen = mixed.reset(3)
    np.testing.assert_array_equal(seen.agent_type, seen.obs[..., -6:].argmax(-1))
    assert len(np.unique(seen.agent_type)) > 1
    edited(mixed, 3, unit_health=lambda health: health.__setitem__((slice(None), 0), 0.0))
    dead = mixed.step(stops(mixed)).seen
    assert not dead.alive[:, 0].any() and (dead.agent_type[:, 0] == 0).all()
    assert (dead.obs[:, 0] == 0).all()
    np.testing.assert_array_equal(dead.avail[:, 0], np.arange(10) == np.full((E, 1), STOP))
    np.testing.assert_array_equal(dead.agent_type[:, 1:], seen.agent_type[:, 1:])
    walks = stops(mixed)
    walks[2, 0] = 0
    with pytest.raises(ValueError, match="action 0 is not available to agent 0 of 2"):
        mixed.step(walks)


def test_who_wins(marines):
    """The enemies die in 0, all in 1, the allies in 2, nobody in 3."""

    def die(health):
        health[0, 3:] = health[1] = health[2, :3] = 0.0

    edited(marines, 0, unit_health=die)
    step = marines.step(stops(marines))
    np.testing.assert_array_equal(step.terminated, [True, True, True, False])
    np.testing.assert_array_equal(step.won, [True, False, False, False])
    np.testing.assert_array_equal(step.reward, [1.0, 0.0, 0.0, 0.0])
    assert not step.truncated.any()


def test_damage_is_rewarded_by_the_share_of_full_health(marines):
    def weaken(health):
        health[:, 3] = 9.0  # of 45, what one shot takes
        health[0, 4:] = 0.0

    def meet(points):
        points[:, :3] = [[14.0, 15.0], [14.0, 16.0], [14.0, 17.0]]
        points[:, 3:] = [[18.0, 15.0], [18.0, 16.0], [18.0, 17.0]]

    edited(marines, 0, unit_health=weaken, unit_positions=meet)
    marines.step(stops(marines))  # cooldowns of the script's first shots are drawn
    edited(marines, 0, unit_health=weaken, unit_positions=meet)
    seen = marines.step(stops(marines)).seen
    assert seen.avail[1, 0, 5:].all()  # all three within 5
    actions = stops(marines)
    actions[:, 0] = 5
    edited(marines, 0, unit_health=weaken, unit_positions=meet)
    state = marines.state_dict()
    state[".view.avail"][:] = True  # as it is once they are observed there
    marines.load_state_dict(state)
    step = marines.step(actions)
    np.testing.assert_allclose(step.reward, [1 / 15 + 1, *[1 / 15] * 3], rtol=1e-5)
    np.testing.assert_array_equal(step.won, [True, False, False, False])


def test_a_limit_of_100_steps_cuts_and_does_not_end(marines):
    def late(count):
        count[:] = [99, 98, 99, 0]

    def die(health):
        health[2, :3] = 0.0

    edited(marines, 0, step=late, unit_health=die)
    step = marines.step(stops(marines))
    np.testing.assert_array_equal(step.truncated, [True, False, False, False])
    np.testing.assert_array_equal(step.terminated, [False, False, True, False])


def test_an_episode_does_not_depend_on_its_siblings(marines):
    def course(disturb):
        generator, out = np.random.default_rng(1), []
        seen = marines.reset(9)
        for number in range(30):
            actions = stops(marines)
            actions[0] = uniform_actions(seen, generator)[0]
            if disturb:
                actions[1:] = np.where(seen.avail[1:, :, 0], 0, STOP)
            step = marines.step(actions)
            seen = step.seen
            out.append((seen.obs[0], step.reward[0]))
            if disturb and number == 10:
                seen = marines.reset_where(np.arange(E) > 0)
        return out

    for one, other in zip(course(False), course(True), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1] == other[1]
    keys = jax_envs.environment_keys
    np.testing.assert_array_equal(keys(9, 2), keys(9, 5)[:2])
    assert len(np.unique(np.concatenate([keys(9, 50), keys(10, 50)]), axis=0)) == 100


def test_nothing_is_compiled_after_the_start(marines):
    import jax

    compiled = []

    def listen(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    battles(marines, 0, 3)
    state = marines.state_dict()
    marines.load_state_dict(state)
    battles(Smax("3m", E), 1, 2)
    assert not compiled
    jax.jit(lambda x: x * 3 + len(compiled))(np.arange(7.0))
    assert compiled  # the listener hears


def test_random_play(marines):
    returns, won, lengths = battles(marines, 0, 50)
    assert not won.any()
    assert returns.mean() == pytest.approx(0.18, abs=0.03)  # 0.182 in 1000 of jaxmarl's own
    assert lengths.mean() == pytest.approx(17.9, abs=1.5)


def test_noise_is_on_the_last_reward_alone(marines):
    noisy = Smax("3m", E, terminal_noise=0.5)
    generator = np.random.default_rng(0)
    one, other = marines.reset(2), noisy.reset(2)
    over, drawn = np.zeros(E, bool), []
    for _ in range(600):
        actions = uniform_actions(one, generator)
        plain, step = marines.step(actions), noisy.step(actions)
        np.testing.assert_array_equal(plain.seen.obs, step.seen.obs)
        np.testing.assert_array_equal(plain.won, step.won)
        ended = (plain.terminated | plain.truncated) & ~over
        np.testing.assert_array_equal(plain.reward[~ended], step.reward[~ended])
        drawn += list(step.reward[ended] - plain.reward[ended])
        over |= ended
        one = plain.seen
        if over.all():
            one, other = marines.reset_where(over), noisy.reset_where(over)
            np.testing.assert_array_equal(one.obs, other.obs)
            over = np.zeros(E, bool)
    assert len(drawn) > 60 and len(set(drawn)) == len(drawn)
    assert abs(np.mean(drawn)) < 0.2 and np.std(drawn) == pytest.approx(0.5, abs=0.15)


def test_sight_range_is_that_of_all_types():
    np.testing.assert_array_equal(smax.simulator_of("3m", 3.0).unit_type_sight_ranges, [3.0] * 6)
    assert len(set(np.asarray(smax.simulator_of("3m").unit_type_sight_ranges).tolist())) > 1


def test_bad_input(marines, monkeypatch):
    with pytest.raises(UserError, match="unknown SMAX map '3n'; did you mean 3m"):
        Smax("3n", 1)
    with pytest.raises(UserError, match="sight range"):
        Smax("3m", 1, sight_range=0.0)
    with pytest.raises(UserError, match="noise"):
        Smax("3m", 1, terminal_noise=-1.0)
    with pytest.raises(UserError, match="one at least"):
        Smax("3m", 0)
    with pytest.raises(ValueError, match="not available"):
        marines.reset(0)
        marines.step(np.full((E, 3), 5))  # out of range at the start
    fresh = Smax("3m", E)
    with pytest.raises(ValueError, match="call reset first"):
        fresh.step(stops(fresh))
    with pytest.raises(ValueError, match="no part of 4 environments smax:3m"):
        fresh.load_state_dict({})
    monkeypatch.setattr(jax_envs, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="'jaxmarl' is missing.*make setup"):
        Smax("3m", 1)


def test_the_package_is_loaded_without_its_other_environments(capsys):
    before = {k: sys.modules[k] for k in list(sys.modules) if k.startswith("jaxmarl")}
    try:
        for name in before:
            del sys.modules[name]
        module = jax_envs.jaxmarl_module("spaces")
        assert module.Discrete and "jaxmarl" not in sys.modules
        assert "jaxmarl.environments" not in sys.modules
        spec = jax_envs.find_spec("jaxmarl")
        sys.modules["jaxmarl"] = loaded = importlib.util.module_from_spec(spec)
        assert jax_envs.jaxmarl_module("multi_agent_env").MultiAgentEnv
        assert sys.modules["jaxmarl"] is loaded  # what is there is used and stays
    finally:
        for name in [k for k in sys.modules if k.startswith("jaxmarl")]:
            del sys.modules[name]
        sys.modules.update(before)
    assert capsys.readouterr().out == ""


def test_a_damaged_entry_of_the_cache_is_removed(tmp_path):
    import jax

    class Lowered:
        calls = 0

        def compile(self, options):
            Lowered.calls += 1
            if (tmp_path / "jit_task_4-ab-cache").exists():
                raise RuntimeError("cut short")
            return "program"

    other = tmp_path / "jit_task_40-ab-cache"
    for path in (other, tmp_path / "jit_task_4-ab-cache"):
        path.write_bytes(b"x")
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert jax_envs._compile(Lowered(), "task_4") == "program"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert Lowered.calls == 2 and other.exists()
    assert not jax.config.jax_raise_persistent_cache_errors
