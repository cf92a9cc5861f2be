"""SMAC and SMACv2 against stand-ins of their packages: the game itself is not needed."""

from __future__ import annotations

import random
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from common.marl.smac import RACES, SIZES, Smac, SmacV2, capability_config
from tests.common.marl.checks import conforms, through_a_file, well_formed_step

LIMIT = 5
NOTHING, STOP, NORTH, ATTACK = 0, 1, 2, 6


class Game:
    """Two units against one of two lives; the first unit dies after two steps of an episode."""

    made: list[Game] = []
    unit_type_bits = 2

    def __init__(self, map_name: str, seed: int, **settings: Any) -> None:
        self.map_name, self.seed, self.settings = map_name, seed, settings
        self.launches, self.closed, self.team = 0, False, ["marine", "medivac"]
        Game.made.append(self)

    def get_env_info(self) -> dict[str, int]:
        return {"n_agents": 2, "n_actions": 7, "obs_shape": 5, "state_shape": 3,
                "episode_limit": LIMIT}  # fmt: skip

    def reset(self) -> tuple[list, np.ndarray]:
        if not self.launches:
            self.launches, self.draws = 1, np.random.default_rng(self.seed)
        self.t, self.lives, self.place = 0, 2, self.draws.random()
        return self.get_obs(), self.get_state()

    def _alive(self, agent: int) -> bool:
        return agent == 1 or self.t < 2

    def get_obs(self) -> list[np.ndarray]:
        types = {"marine": [1, 0], "medivac": [0, 1]}
        return [
            np.array([self.t, self.lives, self.place, *types[self.team[i]]]) * self._alive(i)
            for i in range(2)
        ]

    def get_state(self) -> np.ndarray:
        return np.array([self.t, self.lives, self.place])

    def get_avail_agent_actions(self, agent: int) -> list[int]:
        if not self._alive(agent):
            return [1, 0, 0, 0, 0, 0, 0]
        return [0, 1, 1, 0, 0, 0, 1]

    def get_avail_actions(self) -> list[list[int]]:
        return [self.get_avail_agent_actions(i) for i in range(2)]

    def step(self, actions: list[int]) -> tuple[float, bool, dict]:
        assert all(type(a) is int for a in actions)
        for i, action in enumerate(actions):
            assert self.get_avail_agent_actions(i)[action] == 1
        if actions[1] == NORTH and self.settings.get("breaks"):
            return 0, True, {}  # as when the connection is lost
        self.t += 1
        self.lives = max(0, self.lives - (actions[1] == ATTACK))
        info = {"battle_won": self.lives == 0}
        over = self.lives == 0
        if not over and self.t >= LIMIT:
            over = True
            if self.settings["continuing_episode"]:
                info["episode_limit"] = True
        return float(actions[1] == ATTACK), over, info

    def close(self) -> None:
        self.closed = True


class Teams:
    """A distribution as SMACv2's: a generator that nobody seeds, and one below it."""

    def __init__(self, below: Any = None) -> None:
        self.rng, self.below = np.random.default_rng(), below

    def generate(self) -> list[str]:
        below = self.below.generate() if self.below else []
        team = list(self.rng.choice(["marine", "medivac"], 8))
        random.shuffle(team)
        return team + below


class Drawn(Game):
    """A game of SMACv2: teams are drawn at each reset."""

    def __init__(self, capability_config: dict, **settings: Any) -> None:
        super().__init__(**settings)
        capability_config["team_gen"]["n_units"] = 0  # the package writes to what it is given
        self.capability_config = capability_config
        self.env_key_to_distribution_map = {"team_gen": Teams(Teams())}
        self.drawn: list[list[str]] = []

    def reset(self) -> tuple[list, np.ndarray]:
        self.drawn.append(self.env_key_to_distribution_map["team_gen"].generate())
        self.team = self.drawn[-1][:2]
        return super().reset()


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stand-ins of both packages, and a folder of maps."""
    Game.made.clear()
    (tmp_path / "Maps" / "SMAC_Maps").mkdir(parents=True)
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    maps = "smac.env.starcraft2.maps.smac_maps"
    for name in ("smac", "smac.env", "smac.env.starcraft2", "smac.env.starcraft2.maps", maps,
                 "smacv2", "smacv2.env"):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["smac.env"].StarCraft2Env = Game
    sys.modules[maps].get_smac_map_registry = lambda: {"3m": {}, "8m": {}}
    sys.modules["smacv2.env"].StarCraftCapabilityEnvWrapper = Drawn


def test_conforms(game: None) -> None:
    for env in (Smac("3m", 3), SmacV2("terran_5_vs_5", 3)):
        conforms(env, repeats=False, keeps=False)  # see the module


def test_dead_units_do_nothing_and_types_are_read(game: None) -> None:
    env = Smac("3m", 2)
    seen = env.reset(0)
    assert (env.n_types, env.episode_limit, env.n_actions) == (2, LIMIT, 7)
    np.testing.assert_array_equal(seen.agent_type, [[0, 1]] * 2)
    env.step(np.full((2, 2), STOP))
    seen = env.step(np.full((2, 2), STOP)).seen
    np.testing.assert_array_equal(seen.alive, [[False, True]] * 2)
    np.testing.assert_array_equal(seen.avail[0, 0], [1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(seen.agent_type, [[0, 1]] * 2)
    assert (seen.obs[:, 0] == 0).all()


def test_a_won_battle_has_terminated_and_a_timeout_has_not(game: None) -> None:
    env = Smac("3m", 2)
    env.reset(0)
    rewards = []
    for t in range(LIMIT):
        mine = STOP if t < 2 else NOTHING
        step = env.step(np.array([[mine, ATTACK], [mine, STOP]]))
        rewards.append(step.reward)
        well_formed_step(env, step)
        assert step.terminated[0] == step.won[0] == (t >= 1)
        assert step.truncated[1] == (t == LIMIT - 1)
    assert not step.truncated[0] and not step.terminated[1] and not step.won[1]
    np.testing.assert_array_equal(np.sum(rewards, axis=0), [2, 0])


def test_a_lost_connection_cuts_the_episode(game: None) -> None:
    env = Smac("3m", 1, breaks=True)
    seen = env.reset(0)
    step = env.step(np.array([[STOP, NORTH]]))
    assert step.truncated[0] and not step.terminated[0] and step.reward[0] == 0
    np.testing.assert_array_equal(step.seen.obs, seen.obs)


def test_a_game_is_launched_once_with_a_seed_and_the_settings_of_the_benchmark(game: None) -> None:
    env = Smac("3m", 2, difficulty="A")
    env.reset(1)
    env.reset_where(np.array([True, False]))
    env.reset(2)
    launched = [g for g in Game.made if g.launches]
    assert len(launched) == 2 and launched[0].seed != launched[1].seed
    assert {g.map_name for g in launched} == {"3m"}
    expected = {"step_mul": 8, "difficulty": "A", "continuing_episode": True}
    assert launched[0].settings == expected
    env.close()
    assert all(g.closed for g in launched)


def test_what_was_kept_goes_on_with_the_next_episodes(game: None) -> None:
    """A game can't be kept: what was running is cut, what was over stays over."""
    env = Smac("3m", 2)
    env.reset(0)
    env.step(np.array([[STOP, ATTACK]] * 2))
    last = env.step(np.array([[STOP, ATTACK], [STOP, STOP]]))
    kept = through_a_file(env.state_dict())
    other = Smac("3m", 2)
    other.load_state_dict(kept)
    step = other.step(np.array([[NOTHING, STOP]] * 2))
    np.testing.assert_array_equal(step.terminated, [True, False])
    np.testing.assert_array_equal(step.won, [True, False])
    np.testing.assert_array_equal(step.truncated, [False, True])
    np.testing.assert_array_equal(step.reward, [0, 0])
    for name in ("obs", "state", "avail", "alive", "agent_type"):
        np.testing.assert_array_equal(getattr(step.seen, name), getattr(last.seen, name))
    other.reset_where(np.array([True, True]))
    step = other.step(np.full((2, 2), STOP))
    assert not (step.terminated | step.truncated).any()
    with pytest.raises(ValueError, match="2 environments were kept"):
        Smac("3m", 3).load_state_dict(kept)


def test_teams_are_drawn_from_the_seed(game: None) -> None:
    def teams(seed: int) -> list[list[str]]:
        Game.made.clear()
        env = SmacV2("terran_5_vs_5", 2)
        env.reset(seed)
        env.reset_where(np.array([True, True]))
        return [team for g in Game.made if g.launches for team in g.drawn]

    random.seed(3)
    before = random.getstate()
    first = teams(0)
    assert random.getstate() == before  # Python's own generator is others', too
    random.random()
    assert first == teams(0) != teams(1)
    assert len({tuple(team) for team in first}) == 4
    assert first[0][:8] != first[0][8:]  # the distribution below has a stream of its own


def test_the_config_of_a_task(game: None) -> None:
    env = SmacV2("zerg_10_vs_11", 2)
    assert env.name == "smacv2:zerg_10_vs_11"
    first, second = Game.made[-2:]
    assert first.capability_config is not second.capability_config
    assert first.map_name == "10gen_zerg"
    assert first.settings["obs_own_pos"] and first.settings["continuing_episode"]
    for race in RACES:
        for size in SIZES:
            config = capability_config(race, *map(int, size.split("_vs_")))
            team = config["team_gen"]
            assert (config["n_units"], config["n_enemies"]) == tuple(map(int, size.split("_vs_")))
            assert team["dist_type"] == "weighted_teams" and team["observe"]
            assert sum(team["weights"]) == pytest.approx(1) and len(team["unit_types"]) == 3
            assert set(team.get("exception_unit_types", [])) <= set(team["unit_types"])
    share = dict(zip(team["unit_types"], team["weights"], strict=True))
    assert share == {"zergling": 0.45, "baneling": 0.1, "hydralisk": 0.45}
    assert config["start_positions"] == {
        "dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32
    }  # fmt: skip
    assert "n_units" not in RACES["zerg"]  # what the package writes stays out of the table


def test_unknown_names_are_refused(game: None) -> None:
    with pytest.raises(UserError, match="unknown SMAC map '3n'"):
        Smac("3n", 1)
    for task in ("terran_5vs5", "5_vs_5"):
        with pytest.raises(UserError, match="unknown SMACv2 task"):
            SmacV2(task, 1)
    with pytest.raises(UserError, match="did you mean terran"):
        SmacV2("teran_5_vs_5", 1)


def test_what_is_missing_is_said(
    game: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="SMAC_Maps: install StarCraft II"):
        Smac("3m", 1)
    monkeypatch.setitem(sys.modules, "smac.env", None)  # as in a package that has no such module
    with pytest.raises(UserError, match="optimiser.*github.com/oxwhirl/smac.git"):
        Smac("3m", 1)
    monkeypatch.delitem(sys.modules, "smac.env")
    with pytest.raises(UserError, match="another package of that name"):
        Smac("3m", 1)

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name="smacv2")

    monkeypatch.setattr("common.marl.smac.importlib.import_module", absent)
    with pytest.raises(UserError, match="package 'smacv2': pip install .*smacv2.git.*SC2PATH"):
        SmacV2("zerg_5_vs_5", 1)
