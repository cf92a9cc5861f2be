"""Whether an environment keeps to ``common.marl.protocol``.

``conforms(env)`` plays a few episodes with random actions and asserts what the protocol promises.
Tests of an environment call it once and test besides what is particular to it.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common import checkpoint
from common.marl.protocol import BatchEnv, Seen, Step, uniform_actions

FLAGS = ("terminated", "truncated", "won")


def conforms(
    env: BatchEnv,
    *,
    twin: BatchEnv | None = None,
    seed: int = 7,
    most: int = 1000,
    tail: int = 5,
    ends: bool = True,
    repeats: bool = True,
    seeds_differ: bool = True,
    keeps: bool = True,
) -> None:
    """Assert that ``env`` keeps to the protocol.

    Args:
        env: fresh or not; two environments or more show more.
        twin: another one like it: a state that was kept is loaded there too.
        seed: of the episodes.
        most: steps to play at most.
        tail: steps to play after a reset of some, and after a state was loaded.
        ends: every episode comes to its end within ``most`` steps (asserted).
        repeats: the same seed gives the same episodes on the same object.
        seeds_differ: another seed gives other observations or rewards within ``tail`` steps.
        keeps: a running episode goes on from a kept state as it would have.
    """
    of_kind(env)
    seen = env.reset(seed)
    first = copy.deepcopy(seen)
    well_formed(env, seen)
    refuses(env, seen)
    steps = played(env, seen, seed, most)
    same(seen, first)  # what was given out is not written to later
    over = np.logical_or.reduce([s.terminated | s.truncated for s in steps])
    assert over.all() or not ends, f"{(~over).sum()} episodes run after {len(steps)} steps"
    stays(env, steps[-1], over)
    some_begin_anew(env, steps[-1], over, tail)
    if repeats:
        again = env.reset(seed)
        same(again, first)
        for one, other in zip(steps[:tail], played(env, again, seed, tail), strict=False):
            same(one.seen, other.seen)
            np.testing.assert_array_equal(one.reward, other.reward)
    if seeds_differ:
        others = played(env, env.reset(seed + 1), seed, tail)
        assert any(
            not np.array_equal(a.seen.obs, b.seen.obs) or not np.array_equal(a.reward, b.reward)
            for a, b in zip(steps, others, strict=False)
        ), "another seed changes nothing"
    if keeps:
        future_is_kept(env, twin or env, seed, tail)


def of_kind(env: BatchEnv) -> None:
    """Its attributes are there and make sense together."""
    assert isinstance(env.name, str) and env.name
    for name in ("n_envs", "n_agents", "obs_dim", "state_dim", "episode_limit", "n_types"):
        value = getattr(env, name)
        assert isinstance(value, int) and value >= 1, (name, value)
    assert isinstance(env.n_actions, int) and isinstance(env.action_dim, int)
    assert (env.n_actions > 0) != (env.action_dim > 0), "actions are discrete or continuous"


def well_formed(env: BatchEnv, seen: Seen) -> None:
    """Shapes, types, and values that are possible."""
    E, N = env.n_envs, env.n_agents
    forms = {
        "obs": ((E, N, env.obs_dim), np.float32),
        "state": ((E, env.state_dim), np.float32),
        "avail": ((E, N, env.n_actions), np.bool_),
        "alive": ((E, N), np.bool_),
        "agent_type": ((E, N), np.int64),
    }
    assert {f.name for f in fields(seen)} == set(forms)
    for name, (shape, dtype) in forms.items():
        array = getattr(seen, name)
        assert type(array) is np.ndarray, (name, type(array))
        assert (array.shape, array.dtype) == (shape, dtype), (name, array.shape, array.dtype)
        assert array.flags.c_contiguous, f"{name} is not contiguous"
    assert np.isfinite(seen.obs).all() and np.isfinite(seen.state).all()
    assert (seen.agent_type >= 0).all() and (seen.agent_type < env.n_types).all()
    if env.n_actions:
        assert seen.avail.any(-1).all(), "an agent has no action"
        assert (seen.avail.sum(-1)[~seen.alive] == 1).all(), "the dead have a choice"


def well_formed_step(env: BatchEnv, step: Step) -> None:
    """:func:`well_formed` for a step."""
    well_formed(env, step.seen)
    for name in ("reward", *FLAGS):
        array = getattr(step, name)
        dtype = np.float32 if name == "reward" else np.bool_
        assert type(array) is np.ndarray and array.shape == (env.n_envs,), name
        assert array.dtype == dtype, (name, array.dtype)
    assert np.isfinite(step.reward).all()
    assert not (step.terminated & step.truncated).any()
    assert not (step.won & ~(step.terminated | step.truncated)).any(), "won before the end"


def actions_for(env: BatchEnv, seen: Seen, generator: np.random.Generator) -> NDArray[Any]:
    """Random ones that are available."""
    if env.n_actions:
        return uniform_actions(seen, generator)
    shape = (env.n_envs, env.n_agents, env.action_dim)
    return generator.uniform(-1, 1, shape).astype(np.float32)


def played(env: BatchEnv, seen: Seen, seed: int, most: int) -> list[Step]:
    """Step until all is over (or ``most`` steps); what is over stays as it is meanwhile."""
    generator = np.random.default_rng(seed)
    steps: list[Step] = []
    over = np.zeros(env.n_envs, bool)
    while len(steps) < most and not over.all():
        step = env.step(actions_for(env, seen, generator))
        well_formed_step(env, step)
        unchanged(seen, step.seen, over)
        assert (step.reward[over] == 0).all(), "a reward after the end"
        if steps:
            for name in FLAGS:
                before, now = getattr(steps[-1], name), getattr(step, name)
                np.testing.assert_array_equal(before[over], now[over], err_msg=name)
        steps.append(step)
        seen, over = step.seen, over | step.terminated | step.truncated
        assert over.all() or len(steps) < env.episode_limit, "an episode beyond the limit"
    return steps


def stays(env: BatchEnv, last: Step, over: NDArray[np.bool_]) -> None:
    """Where all is over, a step changes nothing, whatever the actions."""
    if not over.all():
        return
    step = env.step(np.zeros_like(actions_for(env, last.seen, np.random.default_rng(0))))
    same(step.seen, last.seen)
    assert (step.reward == 0).all()
    for name in FLAGS:
        np.testing.assert_array_equal(getattr(step, name), getattr(last, name), err_msg=name)


def some_begin_anew(env: BatchEnv, last: Step, over: NDArray[np.bool_], tail: int) -> None:
    """``reset_where`` begins the episodes of its mask, and no other."""
    nobody = env.reset_where(np.zeros(env.n_envs, bool))
    same(nobody, last.seen)
    mask = np.arange(env.n_envs) % 2 == 0
    seen = env.reset_where(mask)
    well_formed(env, seen)
    unchanged(last.seen, seen, ~mask)
    running = mask | ~over
    step = env.step(actions_for(env, seen, np.random.default_rng(tail)))
    well_formed_step(env, step)
    unchanged(seen, step.seen, ~running)
    if env.episode_limit > 1:
        assert not step.truncated[mask].any(), "the clock went on after a reset"


def future_is_kept(env: BatchEnv, twin: BatchEnv, seed: int, tail: int) -> None:
    """From a kept state on, the same happens again: here, and in another environment."""
    generator = np.random.default_rng(seed)
    seen = env.reset(seed)
    for _ in range(2):  # into the episode, beyond the end of a short one
        step = env.step(actions_for(env, seen, generator))
        seen = step.seen
    kept = env.state_dict()
    stored = through_a_file(kept)

    def future(of: BatchEnv) -> list[Any]:
        draws = np.random.default_rng(seed + 1)
        now, out = seen, []
        for _ in range(2):
            for _ in range(tail):
                step = of.step(actions_for(of, now, draws))
                now = step.seen
                out += [step.reward, *(getattr(step, name) for name in FLAGS)]
                out += [getattr(now, f.name) for f in fields(now)]
            for which in (np.arange(of.n_envs) % 2 == 1, np.ones(of.n_envs, bool)):
                now = of.reset_where(which)  # episodes to come are part of the future
                out += [getattr(now, f.name) for f in fields(now)]
        return out

    expected = future(env)
    for target in (env, twin):
        target.load_state_dict(copy.deepcopy(stored))
        for one, other in zip(expected, future(target), strict=True):
            np.testing.assert_array_equal(one, other)
    assert alike(kept, stored), "what state_dict gave has changed since"


def through_a_file(tree: dict[str, Any]) -> dict[str, Any]:
    """``tree`` as a checkpoint gives it back."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = checkpoint.load(checkpoint.save(Path(folder), 1, tree, {}))
    assert loaded is not None
    out: dict[str, Any] = loaded[1]
    return out


def alike(one: Any, other: Any) -> bool:
    """Equal trees of arrays and plain values."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)


def refuses(env: BatchEnv, seen: Seen) -> None:
    """An action that is not available, or that there is not, is an error."""
    good = actions_for(env, seen, np.random.default_rng(0))
    bad = good.copy()
    bad[0, 0] = env.n_actions if env.n_actions else np.nan
    for wrong in [bad, good[:, :-1], good[..., None], *_masked(seen, good)]:
        with pytest.raises(ValueError):
            env.step(wrong)


def _masked(seen: Seen, good: NDArray[Any]) -> list[NDArray[Any]]:
    """Actions of which one is masked, if any is."""
    masked = np.argwhere(~seen.avail)
    if not len(masked):
        return []
    e, n, a = masked[0]
    wrong = good.copy()
    wrong[e, n] = a
    return [wrong]


def same(one: Seen, other: Seen) -> None:
    """Equal in everything."""
    unchanged(one, other, np.ones(len(one.obs), bool))


def unchanged(before: Seen, after: Seen, where: NDArray[np.bool_]) -> None:
    """Equal in the environments of ``where`` [E]."""
    for f in fields(before):
        one, other = getattr(before, f.name)[where], getattr(after, f.name)[where]
        np.testing.assert_array_equal(one, other, err_msg=f.name)


__all__ = ["conforms", "played", "same", "unchanged", "well_formed", "well_formed_step"]
