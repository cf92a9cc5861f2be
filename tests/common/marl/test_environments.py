"""Environments by name, and whether the checks of environments find what is wrong."""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from common.marl import environments
from common.marl.environments import FAMILIES, make_env
from common.marl.matrix_games import END, MatrixGame
from common.marl.protocol import Seen, Step
from tests.common.marl.checks import conforms


@pytest.mark.parametrize(
    ("name", "agents", "obs", "actions"),
    [
        ("matrix:two_step", 2, 3, 2),
        ("pp:5x5-3", 3, 9 * 29, 5),
        ("pcp:5x5-2+1", 3, 9 * 29, 6),
        ("pettingzoo:mpe2.simple_spread_v3", 3, 18, 5),
        ("lbf:8x8-2p-2f-coop", 2, 12, 6),
        ("rware:tiny-2ag", 2, 71, 5),
        ("mamujoco:HalfCheetah-2x3", 2, 11, 0),
    ],
)
def test_a_name_gives_its_environment(name: str, agents: int, obs: int, actions: int) -> None:
    env = make_env(name, 2)
    assert (env.name, env.n_envs, env.n_agents) == (name, 2, agents)
    assert (env.obs_dim, env.n_actions) == (obs, actions)


def test_options_reach_the_environment() -> None:
    assert make_env("pp:7x7-4", 1, limit=9, vision=0).episode_limit == 9
    pcp = make_env("pcp:6x6-1+3", 1, capture_first=True)
    np.testing.assert_array_equal(pcp.reset(0).agent_type, [[1, 1, 1, 0]])
    assert make_env("pettingzoo:mpe2.simple_spread_v3", 1, N=2).n_agents == 2
    assert make_env("matrix:penalty", 1, penalty=-7).game.means.min() == -7


@pytest.mark.parametrize(
    ("name", "module", "kind"),
    [
        ("smax:3m", "smax", "Smax"),
        ("mpe:facmac_distinct", "jax_mpe", "JaxMpe"),
        ("smac:3m", "smac", "Smac"),
        ("smacv2:terran_5_vs_5", "smac", "SmacV2"),
    ],
)
def test_simulators_are_imported_when_asked_for(
    name: str, module: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = types.ModuleType(module)
    setattr(stand_in, kind, lambda *args, **options: types.SimpleNamespace(got=(args, options)))
    monkeypatch.setitem(sys.modules, f"common.marl.{module}", stand_in)
    env: Any = make_env(name, 3, sight_range=1.0)
    assert env.got == ((name.split(":")[1], 3), {"sight_range": 1.0})
    assert env.name == name


def test_every_family_is_in_the_table() -> None:
    assert environments.__doc__ is not None
    rows = [line.split() for line in environments.__doc__.splitlines() if line.startswith("``")]
    assert [row[0].strip("`") for row in rows] == list(FAMILIES)


@pytest.mark.parametrize(
    ("name", "n_envs", "what"),
    [
        ("smaxx:3m", 1, "did you mean smax"),
        ("nothing", 1, "unknown family of environments"),
        ("matrix", 1, "write matrix:TASK"),
        ("matrix:", 1, "write matrix:TASK"),
        ("matrix:two_steps", 1, "did you mean two_step"),
        ("matrix:two_step", 0, "one at least"),
        ("pp:5x5", 1, "write it like 5x5-3"),
        ("pp:5x6-3", 1, "write it like 5x5-3"),
        ("pcp:5x5-3", 1, r"write it like 5x5-2\+1"),
    ],
)
def test_bad_names_are_refused(name: str, n_envs: int, what: str) -> None:
    with pytest.raises(UserError, match=what):
        make_env(name, n_envs)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lbforaging", None)
    with pytest.raises(UserError, match="'lbforaging', which is missing; 'make setup"):
        make_env("lbf:8x8-2p-2f-coop", 1)


# -- environments that break the protocol, each in its own way ------------------------------------


class WrongType(MatrixGame):
    def step(self, actions: Any) -> Step:
        step = super().step(actions)
        return dataclasses.replace(step, reward=step.reward.astype(np.float64))


class ResetsItself(MatrixGame):
    def step(self, actions: Any) -> Step:
        step = super().step(actions)
        return dataclasses.replace(step, seen=self.reset_where(self._state == END))


class RewardsAfterTheEnd(MatrixGame):
    def step(self, actions: Any) -> Step:
        step = super().step(actions)
        return dataclasses.replace(step, reward=step.reward + 1)


class TakesAnything(MatrixGame):
    def step(self, actions: Any) -> Step:
        actions = np.asarray(actions).reshape(self.n_envs, -1)
        return super().step(np.resize(actions, (self.n_envs, self.n_agents)) % self.n_actions)


class ForgetsItsGenerator(MatrixGame):
    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self._generator = np.random.default_rng()


class KeepsAView(MatrixGame):
    def state_dict(self) -> dict:
        return {**super().state_dict(), "state": self._state}

    def step(self, actions: Any) -> Step:
        before = self._state
        step = super().step(actions)
        before[:] = self._state  # in place
        self._state = before
        return step


class IgnoresTheSeed(MatrixGame):
    def reset(self, seed: int) -> Seen:
        return super().reset(0)


class ResetsAll(MatrixGame):
    def reset_where(self, mask: Any) -> Seen:
        return super().reset_where(np.ones_like(mask) if np.any(mask) else mask)


class NobodyMayAct(MatrixGame):
    def _seen(self) -> Seen:
        seen = super()._seen()
        seen.avail[:, 0] = False
        return seen


class WritesToWhatItGave(MatrixGame):
    def _seen(self) -> Seen:
        given = self.__dict__.setdefault("given", super()._seen())
        for field in dataclasses.fields(given):
            getattr(given, field.name)[...] = getattr(super()._seen(), field.name)
        return given


@pytest.mark.parametrize(
    "kind",
    [
        *(WrongType, ResetsItself, RewardsAfterTheEnd, TakesAnything, ForgetsItsGenerator),
        *(KeepsAView, IgnoresTheSeed, ResetsAll, NobodyMayAct, WritesToWhatItGave),
    ],
)
def test_the_checks_find(kind: type[MatrixGame]) -> None:
    conforms(MatrixGame("dfac_m", 3))
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        conforms(kind("dfac_m", 3))
