"""PettingZoo's parallel API, foraging and the warehouse as batches of environments."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from common.errors import UserError
from common.marl.gym_tuples import Foraging, Warehouse
from common.marl.pettingzoo_env import ParallelSingle, PettingZoo
from tests.common.marl.checks import conforms, played

SPREAD = "mpe2.simple_spread_v3"


class Toy:
    """Agents "a" (2 numbers, 3 actions), "b" (masked in its observation) and "c" (in its info).

    "b" leaves after ``leaves`` steps; the others after ``lasts``, by ``end``.
    """

    possible_agents = ["a", "b", "c"]
    observation_spaces = {
        "a": Box(-9, 9, (2,)),
        "b": Dict({"observation": Box(-9, 9, (3,)), "action_mask": MultiBinary(2)}),
        "c": Discrete(4),
    }
    action_spaces: dict[str, Any] = {"a": Discrete(3), "b": Discrete(2, start=5), "c": Discrete(4)}

    def __init__(self, leaves: int = 2, lasts: int = 4, end: str = "truncated") -> None:
        self.max_cycles, self.leaves, self.end = lasts, leaves, end
        self.received: dict[str, Any] = {}

    @property
    def unwrapped(self) -> Toy:
        return self

    def observation_space(self, agent: str) -> Any:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self.action_spaces[agent]

    def seen(self) -> tuple[dict, dict]:
        t, start = self.t, self.start
        every = {
            "a": np.array([t, start]),
            "b": {"observation": np.full(3, start), "action_mask": np.array([0, 1])},
            "c": t % 4,
        }
        return (
            {agent: every[agent] for agent in self.agents},
            {agent: {"action_mask": np.array([0, 1, 1, 0])} if agent == "c" else {}
             for agent in self.agents},
        )  # fmt: skip

    def reset(self, seed: int) -> tuple[dict, dict]:
        self.agents, self.t = list(self.possible_agents), 0
        self.start = np.random.default_rng(seed).normal()
        return self.seen()

    def step(self, actions: dict) -> tuple[dict, ...]:
        assert actions.keys() == set(self.agents)
        self.received = actions
        self.t += 1
        over = self.t >= self.max_cycles
        seen = self.seen()
        rewards = {agent: 1.0 + self.possible_agents.index(agent) for agent in self.agents}
        ended = {x: (over and self.end == "terminated") or x == "b" for x in self.agents}
        if self.t < self.leaves:
            ended = dict.fromkeys(self.agents, False)
        cut = dict.fromkeys(self.agents, over and self.end == "truncated")
        self.agents = [a for a in self.agents if not ended[a] and not cut[a]]
        return *seen[:1], rewards, ended, cut, seen[1]


class Pushed(Toy):
    """Two agents with continuous actions between other bounds than -1 and 1."""

    possible_agents = ["a", "b"]
    action_spaces = {"a": Box(-2, 6, (1,)), "b": Box(0, 1, (2,))}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that has environments."""
    module = types.ModuleType("toys")
    module.parallel_env = Toy
    monkeypatch.setitem(sys.modules, "toys", module)
    return module


def test_agents_that_differ_are_padded_and_masked(toys: types.ModuleType) -> None:
    env = PettingZoo("toys", 2)
    assert (env.n_agents, env.obs_dim, env.n_actions, env.episode_limit) == (3, 4, 4, 4)
    seen = env.reset(3)
    np.testing.assert_array_equal(seen.avail[0], [[1, 1, 1, 0], [0, 1, 0, 0], [0, 1, 1, 0]])
    np.testing.assert_array_equal(seen.obs[0, 0, [0, 2, 3]], [0, 0, 0])
    np.testing.assert_array_equal(seen.obs[0, 2], [1, 0, 0, 0])  # one of 4, as a one-hot
    assert seen.obs[0, 0, 1] == seen.obs[0, 1, 2] != seen.obs[1, 0, 1]  # seeds of their own
    np.testing.assert_array_equal(seen.state, seen.obs.reshape(2, -1))  # it has none of its own
    env.step(np.array([[2, 1, 1], [0, 1, 2]]))
    assert env.singles[0].env.received == {"a": 2, "b": 6, "c": 1}  # b's begin at 5


@pytest.mark.parametrize("end", ["truncated", "terminated"])
def test_who_leaves_is_dead_and_how_it_ends(toys: types.ModuleType, end: str) -> None:
    env = PettingZoo("toys", 1, end=end)
    env.reset(0)
    actions = np.array([[0, 1, 1]])
    assert env.step(actions).seen.alive.all()
    step = env.step(actions)  # b leaves, and still gets what it earned
    assert step.reward == 6 and not (step.terminated | step.truncated)
    np.testing.assert_array_equal(step.seen.alive, [[True, False, True]])
    np.testing.assert_array_equal(step.seen.avail[0, 1], [1, 0, 0, 0])
    with pytest.raises(ValueError, match="agent 1"):
        env.step(actions)
    actions[0, 1] = 0
    assert env.step(actions).reward == 4
    step = env.step(actions)
    assert (step.terminated[0], step.truncated[0]) == (end == "terminated", end == "truncated")
    # whom time has cut would have gone on: there is something to bootstrap from
    np.testing.assert_array_equal(step.seen.alive[0, [0, 2]], [end == "truncated"] * 2)
    np.testing.assert_array_equal(step.seen.avail[0, 2], [0, 1, 1, 0] if end == "truncated" else
                                  [1, 0, 0, 0])  # fmt: skip


def test_the_mean_of_the_rewards_and_a_shorter_limit(toys: types.ModuleType) -> None:
    env = PettingZoo("toys", 2, reward="mean", limit=1)
    env.reset(0)
    step = env.step(np.array([[0, 1, 1]] * 2))
    assert (step.reward == 2).all() and step.truncated.all() and step.seen.alive.all()


def test_conforms(toys: types.ModuleType) -> None:
    conforms(PettingZoo("toys", 3), twin=PettingZoo("toys", 3))
    toys.parallel_env = Pushed
    conforms(PettingZoo("toys", 2), twin=PettingZoo("toys", 2))


def test_continuous_actions_are_scaled_to_their_bounds() -> None:
    single = ParallelSingle(Pushed())
    assert (single.action_dim, single.n_actions) == (2, 0)
    assert single.reset(0).avail.shape == (2, 0)
    single.step(np.array([[0.0, 9.0], [-1.0, 1.0]]))
    received = single.env.received
    np.testing.assert_array_equal(received["a"], [2.0])  # the other number is padding
    np.testing.assert_array_equal(received["b"], [0.0, 1.0])


@pytest.mark.parametrize("continuous", [False, True])
def test_mpe_gives_what_it_gives_alone(continuous: bool) -> None:
    import mpe2.simple_spread_v3 as spread

    env = PettingZoo(SPREAD, 2, continuous_actions=continuous)
    conforms(env, twin=PettingZoo(SPREAD, 2, continuous_actions=continuous))
    assert (env.obs_dim, env.state_dim, env.episode_limit) == (18, 54, 25)
    seen = env.reset(5)
    alone = spread.parallel_env(continuous_actions=continuous)
    obs, _ = alone.reset(seed=int(env.state_dict()["seeds"][1]))
    np.testing.assert_array_equal(seen.obs[1], np.stack(list(obs.values())))
    shape = (2, 3, 5) if continuous else (2, 3)
    plan = np.random.default_rng(0)
    for t in range(25):
        actions = plan.uniform(-1, 1, shape) if continuous else plan.integers(5, size=shape)
        step = env.step(actions)
        own = (actions[1] + 1) / 2 if continuous else actions[1]
        obs, rewards, *_ = alone.step(
            {a: own[i].astype(np.float32) if continuous else own[i] for i, a in enumerate(obs)}
        )
        np.testing.assert_allclose(step.reward[1], sum(rewards.values()), rtol=1e-6)
        np.testing.assert_allclose(step.seen.obs[1], np.stack(list(obs.values())), atol=1e-6)
        assert step.truncated.all() == (t == 24) and not step.terminated.any()
    assert step.seen.alive.all()


def test_what_does_not_fit_is_said(toys: types.ModuleType) -> None:
    for module, what in {
        "mpe2.simple_spred_v3": "did you mean simple_spread_v3",
        "no_such_package.env_v1": "'no_such_package', which is missing",
        "common.errors": "no parallel_env",
    }.items():
        with pytest.raises(UserError, match=what):
            PettingZoo(module, 1)
    with pytest.raises(UserError, match="did you mean"):
        PettingZoo(SPREAD, 1, reward="summ")
    endless = Toy()
    del endless.max_cycles
    with pytest.raises(UserError, match="limit=STEPS"):
        ParallelSingle(endless)
    odd = Toy()
    odd.action_spaces = {**Toy.action_spaces, "c": MultiDiscrete([2, 2])}
    with pytest.raises(UserError, match="Discrete or bounded"):
        ParallelSingle(odd)


def test_actions_beyond_the_bounds_are_refused(toys: types.ModuleType) -> None:
    toys.parallel_env = Pushed
    env = PettingZoo("toys", 1)
    env.reset(0)
    env.step(np.array([[[1 + 1e-6, 0.0], [0.0, -1.0]]]))  # rounding is no fault
    np.testing.assert_array_equal(env.singles[0].env.received["a"], [6.0])
    for wrong in (1.1, np.nan):
        with pytest.raises(ValueError, match="agent 1"):
            env.step(np.array([[[0.0, 0.0], [0.0, wrong]]]))


def test_foraging_conforms_and_knows_its_end() -> None:
    conforms(Foraging("8x8-2p-2f-coop", 3), twin=Foraging("8x8-2p-2f-coop", 3))
    env = Foraging("5x5-2p-1f", 8)
    assert (env.obs_dim, env.n_actions, env.episode_limit) == (9, 6, 50)
    steps = played(env, env.reset(1), 1, 50)
    last, total = steps[-1], np.sum([s.reward for s in steps], axis=0)
    assert last.terminated.any() and last.truncated.any()
    np.testing.assert_array_equal(last.won, last.terminated)
    np.testing.assert_allclose(total, last.terminated, atol=1e-6)  # all of the one food, or none
    gone = last.seen.obs[:, 0, 2] == 0  # the food's level, seen from everywhere
    np.testing.assert_array_equal(gone, last.terminated)


def test_the_warehouse_conforms_and_ends_by_time_alone() -> None:
    env = Warehouse("tiny-2ag", 2)
    assert (env.n_agents, env.obs_dim, env.n_actions, env.episode_limit) == (2, 71, 5, 500)
    conforms(env, twin=Warehouse("tiny-2ag", 2), most=20, ends=False)
    steps = played(env, env.reset(0), 0, 500)
    assert len(steps) == 500 and steps[-1].truncated.all() and not steps[-1].terminated.any()


@pytest.mark.parametrize(
    ("make", "task", "hint"),
    [
        (Foraging, "8x8-2p-2f-cop", "did you mean .*8x8-2p-2f-coop"),
        (Foraging, "?", "choose among"),
        (Warehouse, "tny-2ag", "did you mean .*tiny-2ag"),
    ],
)
def test_unknown_tasks_are_refused_with_near_names(make: type, task: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint) as caught:
        make(task, 1)
    assert len(str(caught.value)) < 200  # there are thousands
