"""StarCraft II: the maps of SMAC and the drawn teams of SMACv2, as batches of games.

Needs StarCraft II (4.10), the maps, and a package that is not on PyPI; :func:`installed` says how
they are had. The games of a batch are processes of their own and are stepped one after the other.

A game can be neither seeded per episode nor kept. Its own random numbers are seeded when it is
launched, at the first episode, and go on from there; SMACv2's teams and positions are drawn anew
from every episode's seed. An episode that runs while the state is kept is cut when it is loaded:
its next step gives what was last seen, reward 0, and says ``truncated``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, choose
from common.marl.vectors import Outcome, Vectors, View

# The benchmark's own, and its packages' flag for time-outs, which it has switched off.
SETTINGS = {"step_mul": 8, "difficulty": "7", "continuing_episode": True}
V2_SETTINGS = {
    "conic_fov": False,
    "obs_own_pos": True,
    "use_unit_ranges": True,
    "min_attack_range": 2,
}
RACES: dict[str, dict[str, Any]] = {  # shares of the units in SMACv2's teams
    "terran": {
        "unit_types": ["marine", "marauder", "medivac"],
        "weights": [0.45, 0.45, 0.1],
        "exception_unit_types": ["medivac"],  # that no team consists of alone
    },
    "protoss": {
        "unit_types": ["stalker", "zealot", "colossus"],
        "weights": [0.45, 0.45, 0.1],
    },
    "zerg": {
        "unit_types": ["zergling", "baneling", "hydralisk"],
        "weights": [0.45, 0.1, 0.45],
        "exception_unit_types": ["baneling"],
    },
}
SIZES = ("5_vs_5", "10_vs_10", "10_vs_11", "20_vs_20", "20_vs_23")  # of the SMACv2 paper
FIELD = 32  # side of SMACv2's map
GAME = (
    "StarCraft II (4.10 for Linux, github.com/Blizzard/s2client-proto) with SMAC's maps in "
    "Maps/SMAC_Maps, and SC2PATH set to its folder"
)


def capability_config(race: str, n_units: int, n_enemies: int) -> dict[str, Any]:
    """SMACv2's description of how teams and positions are drawn.

    Args:
        race: of both sides, in ``RACES``.
        n_units: allies.
        n_enemies: enemies; they get the allies' units and, if they are more, others besides.

    Raises:
        UserError: for an unknown race or an empty side.
    """
    choose("race", race, RACES)
    if n_units < 1 or n_enemies < 1:
        raise UserError(f"{n_units} units against {n_enemies}: each side needs one at least")
    team = {"dist_type": "weighted_teams", **RACES[race], "observe": True}
    place = {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": FIELD, "map_y": FIELD}
    return {
        "n_units": n_units,
        "n_enemies": n_enemies,
        "team_gen": team,
        "start_positions": place,
    }


class Battle:
    """One game as a :class:`common.marl.vectors.Single`.

    An agent is alive as long as it can do something else than nothing (action 0). Its type is read
    from the last ``unit_type_bits`` of its observation.

    Args:
        make: seed -> the package's environment, which launches the game at its first reset.
    """

    action_dim = 0

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make, self._env, self._launched = make, make(0), False
        info = self._env.get_env_info()
        self.n_agents, self.n_actions = int(info["n_agents"]), int(info["n_actions"])
        self.obs_dim, self.state_dim = int(info["obs_shape"]), int(info["state_shape"])
        self.episode_limit = int(info["episode_limit"])
        self._bits = int(getattr(self._env, "unit_type_bits", 0))
        self.n_types = max(1, self._bits)
        self._last: View | None = None
        self._cut = False

    def reset(self, seed: int) -> View:
        """Begin an episode, the game's first or the next of the same game."""
        if not self._launched:
            self._env, self._launched = self._make(seed), True
        with _drawn_from(seed, self._env):
            self._env.reset()
        self._cut = False
        return self._view()

    def cut(self, view: View) -> None:
        """Have an episode that can't go on end at the next step, with ``view``."""
        self._last, self._cut = view, True

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Act, [N] integers."""
        if self._cut:
            return Outcome(self._seen_last(), 0.0, terminated=False, truncated=True)
        reward, over, info = self._env.step(actions.tolist())
        if over and not info:  # the connection is lost; the package has begun another game
            return Outcome(self._seen_last(), 0.0, terminated=False, truncated=True)
        timeout = bool(info.get("episode_limit", False))
        return Outcome(
            view=self._view(),
            reward=float(reward),
            terminated=bool(over) and not timeout,
            truncated=bool(over) and timeout,
            won=bool(over) and bool(info.get("battle_won", False)),
        )

    def close(self) -> None:
        """End the game."""
        self._env.close()

    def _seen_last(self) -> View:
        if self._last is None:
            raise ValueError("no episode has begun: call reset first")
        return self._last

    def _view(self) -> View:
        env, N = self._env, self.n_agents
        obs = np.stack(env.get_obs()).astype(np.float32)
        avail = np.array([env.get_avail_agent_actions(i) for i in range(N)], bool)
        alive = ~avail[:, 0]
        kind = obs[:, -self._bits :].argmax(1) if self._bits else np.zeros(N, np.int64)
        self._last = View(
            obs=obs,
            state=np.array(env.get_state(), np.float32),
            avail=avail,
            alive=alive,
            agent_type=np.where(alive, kind, 0).astype(np.int64),
        )
        return self._last


@contextlib.contextmanager
def _drawn_from(seed: int, env: Any) -> Iterator[None]:
    """Let SMACv2's distributions, which nothing else can seed, draw from generators of ``seed``."""
    streams = np.random.SeedSequence(seed)
    waiting = list(getattr(env, "env_key_to_distribution_map", {}).values())
    while waiting:
        distribution = waiting.pop()
        for name, value in vars(distribution).items():
            if isinstance(value, np.random.Generator):
                setattr(distribution, name, np.random.default_rng(streams.spawn(1)[0]))
            elif hasattr(value, "generate"):
                waiting.append(value)
    before = random.getstate()  # teams are shuffled with Python's own generator
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


class _Battles(Vectors[Battle]):
    """E games; see the module for what differs where a state is loaded."""

    def state_dict(self) -> dict[str, Any]:
        """Generators, what is seen, and which episodes are over."""
        self._check_begun()
        return {
            "generators": [g.bit_generator.state for g in self._generators],
            "seen": vars(self._seen()),
            "terminated": self._terminated.copy(),
            "truncated": self._truncated.copy(),
            "won": self._won.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what ``state_dict`` gave; episodes that were running are cut.

        Raises:
            ValueError: if it is that of another number of environments.
        """
        self._load_generators(state)
        for name in ("terminated", "truncated", "won"):
            setattr(self, f"_{name}", np.array(state[name]))
        self._views = []
        for e, battle in enumerate(self.singles):
            view = View(**{name: np.array(of[e]) for name, of in state["seen"].items()})
            self._views.append(view)
            self._taken[e] = []
            battle.cut(view)

    def close(self) -> None:
        """End the games."""
        for battle in self.singles:
            battle.close()


class Smac(_Battles):
    """E games on one of SMAC's maps.

    Args:
        map_name: "3m", "MMM2", "27m_vs_30m", ...; also of maps that others have registered.
        n_envs: E.
        options: what the package's StarCraft2Env takes besides.

    Raises:
        UserError: for an unknown map, or if the package, the game or the maps are missing.
    """

    def __init__(self, map_name: str, n_envs: int, **options: Any) -> None:
        package = installed("smac")
        registry = importlib.import_module("smac.env.starcraft2.maps.smac_maps")
        choose("SMAC map", map_name, registry.get_smac_map_registry())

        def make(seed: int) -> Any:
            settings = {**SETTINGS, **options}
            return package.StarCraft2Env(map_name=map_name, seed=seed, **settings)

        super().__init__(f"smac:{map_name}", n_envs, lambda: Battle(make))


class SmacV2(_Battles):
    """E games of SMACv2: teams and positions are drawn at every episode.

    Args:
        task: RACE_UNITS_vs_ENEMIES: "terran_5_vs_5", "zerg_10_vs_11", ...
        n_envs: E.
        options: what the package's StarCraft2Env takes besides.

    Raises:
        UserError: for an unknown race or a task of another form, or if the package, the game or
            the maps are missing.
    """

    def __init__(self, task: str, n_envs: int, **options: Any) -> None:
        match = re.fullmatch(r"([a-z]+)_([1-9]\d?)_vs_([1-9]\d?)", task)
        if not match:
            choose("SMACv2 task", task, [f"{race}_{size}" for race in RACES for size in SIZES])
            raise AssertionError("a name of the list has the form")
        race, units, enemies = match[1], int(match[2]), int(match[3])
        capability_config(race, units, enemies)  # a bad task is told before a missing package
        package = installed("smacv2")

        def make(seed: int) -> Any:
            return package.StarCraftCapabilityEnvWrapper(
                capability_config=capability_config(race, units, enemies),  # which it writes to
                map_name=f"10gen_{race}",
                seed=seed,
                **{**SETTINGS, **V2_SETTINGS, **options},
            )

        super().__init__(f"smacv2:{task}", n_envs, lambda: Battle(make))


def installed(package: str) -> Any:
    """The module ``smac.env`` or ``smacv2.env``, when everything that it needs is there.

    Raises:
        UserError: if the package or the game is missing, or another package has its name.
    """
    pip = f"pip install git+https://github.com/oxwhirl/{package}.git"
    try:
        module = importlib.import_module(f"{package}.env")
    except ModuleNotFoundError as error:
        if error.name == f"{package}.env":
            raise UserError(
                f"the installed '{package}' is another package of that name (PyPI's is an "
                f"optimiser): pip uninstall {package}, then {pip}; it needs {GAME}"
            ) from error
        raise UserError(
            f"StarCraft II needs the package '{error.name}': {pip}; and {GAME}"
        ) from error
    folder = Path(os.environ.get("SC2PATH") or "~/StarCraftII").expanduser()
    if not (folder / "Maps" / "SMAC_Maps").is_dir():
        raise UserError(f"there is no {folder / 'Maps' / 'SMAC_Maps'}: install {GAME}")
    with contextlib.suppress(ImportError):
        flags = importlib.import_module("absl.flags")  # comes with pysc2
        if not flags.FLAGS.is_parsed():  # pysc2 refuses to launch with flags that nobody parsed
            flags.FLAGS.mark_as_parsed()
    return module


__all__ = ["RACES", "SIZES", "Battle", "Smac", "SmacV2", "capability_config", "installed"]
