"""SMAX: battles in the manner of StarCraft's, in JAX (jaxmarl), against the scripted enemy.

N allies fight units that a script moves, on a field of 32 x 32. Actions: 0 to 3 move, 4 stops (all
that the dead can do), 5 + j attacks enemy j, which has to be within range. The reward of a step is
the share of its full health that each enemy lost, averaged over the enemies, and 1 more where the
battle is won: a return is at most 2. Observations are jaxmarl's: 13 numbers for each other unit
within sight, 10 about oneself, the last six of which are the type.

Two things differ from jaxmarl's. The state: its world state has positions of 0 to 32 and a cooldown
that falls without bound as long as a unit does not attack (-50 after 100 steps), with which mixing
networks diverge. The time limit: an episode is cut after 100 steps, not after 101.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from common.errors import UserError, choose
from common.marl.jax_envs import JaxEnv, Program, Rules, View, compiled, jaxmarl_module
from common.marl.protocol import Ints, Step

EPISODE_LIMIT = 100  # steps
N_TYPES = 6  # marine, marauder, stalker, zealot, zergling, hydralisk
FEATURES = 10  # of a unit in the state: health, x, y, cooldown, type (6 bits)
COOLDOWN = 2.0  # s; no weapon's is longer (a stalker's is 1.87 + 0.125)


class Smax(JaxEnv):
    """E battles on one map.

    State: of each unit, allies first, ten numbers: health (of its full health), x and y (of the
    field), weapon cooldown (0 to 2 s), type (6 bits); zeros for the dead. ``agent_type`` is the
    position of the bit; ``n_types`` is 6 on every map, also on those of one type.

    Args:
        map_name: "3m", "2s3z", "5m_vs_6m", "smacv2_5_units", ...
        n_envs: E.
        sight_range: how far units see, of all types and both sides; None for that of their type
            (8 to 10). Relative positions in observations are in units of it.
        terminal_noise: standard deviation of zero-mean normal noise on the reward of the step that
            ends an episode.

    Raises:
        UserError: for an unknown map, a bad number, or if jaxmarl is not installed.
    """

    def __init__(
        self,
        map_name: str,
        n_envs: int,
        *,
        sight_range: float | None = None,
        terminal_noise: float = 0.0,
    ) -> None:
        if n_envs < 1:
            raise UserError(f"{n_envs} environments: there must be one at least")
        if sight_range is not None and not 0 < sight_range < math.inf:
            raise UserError(f"the sight range must be above 0, not {sight_range}")
        if not 0 <= terminal_noise < math.inf:
            raise UserError(f"the noise must be 0 or above, not {terminal_noise}")
        program = _program(map_name, n_envs, sight_range)
        super().__init__(f"smax:{map_name}", program, episode_limit=EPISODE_LIMIT, n_types=N_TYPES)
        self.terminal_noise = terminal_noise

    def step(self, actions: Ints) -> Step:
        """Act, [E, N] integers.

        Raises:
            ValueError: for an action that is not available to an agent of a running episode.
        """
        running = self._running
        step = super().step(actions)
        if self.terminal_noise:
            for e in np.flatnonzero(running & ~self._running):
                # the key is that of this very moment, so there is no generator to keep
                noise = np.random.default_rng(np.asarray(self._begun.key[e])).normal()
                step.reward[e] += self.terminal_noise * noise
        return step


def map_names() -> list[str]:
    """The maps that there are.

    Raises:
        UserError: if jaxmarl is not installed.
    """
    return list(jaxmarl_module("smax.smax_env").MAP_NAME_TO_SCENARIO)


@functools.cache
def _program(map_name: str, n_envs: int, sight_range: float | None) -> Program:
    """Compiled once in a process for those who ask for the same."""
    simulator = simulator_of(map_name, sight_range)
    return compiled(f"smax_{map_name}", rules(simulator), n_envs)


def simulator_of(map_name: str, sight_range: float | None = None) -> Any:
    """jaxmarl's environment of one battle."""
    choose("SMAX map", map_name, map_names())
    smax = jaxmarl_module("smax")
    import jax.numpy as jnp

    options: dict[str, Any] = {}
    if sight_range is not None:
        options["unit_type_sight_ranges"] = jnp.full(N_TYPES, float(sight_range))
    return smax.HeuristicEnemySMAX(scenario=smax.map_name_to_scenario(map_name), **options)


def rules(simulator: Any) -> Rules:
    """What one step is made of.

    jaxmarl's own ``step_env`` observes every unit before the step, for the enemy's script, and
    again after it. Here the observations of the last step are kept for the script instead; the
    rest is the same, call by call.
    """
    import jax
    import jax.numpy as jnp

    battle = simulator._env
    n = simulator.num_agents

    def fresh(key: Any) -> Any:
        return simulator.reset(key)[1]

    def outcome(battling: Any) -> tuple[Any, Any, Any]:
        allies, enemies = battling.unit_alive[:n].any(), battling.unit_alive[n:].any()
        terminated = ~(allies & enemies)
        truncated = ~terminated & (battling.step >= EPISODE_LIMIT)
        return terminated, truncated, allies & ~enemies

    def advance(key: Any, state: Any, view: View, actions: Any) -> tuple[Any, Any]:
        key, enemy_key = jax.random.split(key)
        chosen, script = simulator.get_enemy_actions(
            enemy_key, state.enemy_policy_state, view.hidden
        )
        enemies = jnp.stack([chosen[name] for name in simulator.enemy_agents])
        moves, attacks = battle._decode_discrete_actions(jnp.concatenate([actions, enemies]))
        _, battling, rewards, _, _ = battle.step_env_no_decode(key, state.state, (moves, attacks))
        reward = rewards[simulator.agents[0]]
        return state.replace(state=battling, enemy_policy_state=script), reward

    def observe(state: Any) -> View:
        battling = state.state
        seen = battle.get_obs(battling)
        units = jnp.stack([seen[name] for name in battle.agents])  # [N + enemies, O]
        avail = simulator.get_avail_actions(state)
        terminated, truncated, won = outcome(battling)
        alive = battling.unit_alive[:n]
        return View(
            obs=units[:n],
            state=normalised(simulator.get_world_state(state), len(battle.agents)),
            avail=jnp.stack([avail[name] for name in simulator.agents]).astype(bool),
            alive=alive,
            agent_type=jnp.where(alive, battling.unit_types[:n], 0).astype(jnp.int32),
            terminated=terminated,
            truncated=truncated,
            won=won,
            hidden=units[n:],
        )

    def normalised(world: Any, n_units: int) -> Any:
        units = world[: n_units * FEATURES].reshape(n_units, FEATURES)
        field = jnp.array([battle.map_width, battle.map_height])
        cooldown = jnp.clip(units[:, 3:4], 0.0, COOLDOWN)
        return jnp.concatenate(
            [units[:, :1], units[:, 1:3] / field, cooldown, units[:, 4:]], axis=1
        ).reshape(-1)

    return Rules(fresh, advance, observe)


__all__ = ["EPISODE_LIMIT", "N_TYPES", "Smax", "map_names"]
