"""Particle worlds (MPE) in JAX (jaxmarl): predators and preys, and the covering of landmarks.

Discrete actions: 0 nothing, 1 left, 2 right, 3 down, 4 up. Every episode is cut after 25 steps and
none ends before (jaxmarl's own count is 26).

==================  ================================================================================
``facmac_mpe``      4 predators, 2 preys that are no agents, 2 obstacles. Team reward of a step: 10
                    for every (predator, prey) that touch, as in jaxmarl.
``facmac_distinct`` The same world. Reward: 10 for every prey that is touched, by however many, less
                    0.1 times the distance from a prey to its nearest predator, mean over preys.
``spread``          3 agents, 3 landmarks (``simple_spread_v3``). Reward: sum over agents of
                    jaxmarl's.
==================  ================================================================================

What moves the preys is a choice. In jaxmarl 0.2.0 they all but stand still, pushed about by those
that touch them: their script prefers the points that are *not* free, draws directions from less
than the whole circle, and the first of two preys looks for points around the last predator. With
``preys="fleeing"`` they do what that script is about (see :func:`fleeing`).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, choose
from common.marl.jax_envs import JaxEnv, Program, Rules, View, compiled, jaxmarl_module

EPISODE_LIMIT = 25  # steps
N_PREDATORS, N_PREYS, N_OBSTACLES = 4, 2, 2
N_ACTIONS = 5
SCENARIOS = ("facmac_mpe", "facmac_distinct", "spread")
PREYS = ("jaxmarl", "fleeing")
COVERED = 0.3  # a prey counts as covered by a predator within this distance


class JaxMpe(JaxEnv):
    """E particle worlds.

    Observations are jaxmarl's, everything in view: of a predator, its velocity and position, then
    relative positions of obstacles, other predators and preys, and the last prey's velocity (20).
    State: positions of all (agents, preys, obstacles or landmarks), then velocities of what moves.

    Args:
        scenario: "facmac_mpe", "facmac_distinct", "spread".
        n_envs: E.
        preys: "jaxmarl" (as released) or "fleeing"; without meaning in "spread".

    Raises:
        UserError: for an unknown name, or if jaxmarl is not installed.
    """

    def __init__(self, scenario: str, n_envs: int, *, preys: str = "jaxmarl") -> None:
        choose("MPE scenario", scenario, SCENARIOS)
        choose("kind of preys", preys, PREYS)
        if n_envs < 1:
            raise UserError(f"{n_envs} environments: there must be one at least")
        program = _program(scenario, n_envs, preys)
        super().__init__(f"mpe:{scenario}", program, episode_limit=EPISODE_LIMIT)


def positions(state: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Positions of predators [..., 4, 2] and preys [..., 2, 2] in states [..., S] of "facmac_…"."""
    end = N_PREDATORS + N_PREYS
    points = state[..., : 2 * end].reshape(*state.shape[:-1], end, 2)
    return points[..., :N_PREDATORS, :], points[..., N_PREDATORS:, :]


def covered(state: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each prey has a predator within 0.3, for states [..., S] of "facmac_…". [...]."""
    predators, preys = positions(state)
    distances = np.linalg.norm(predators[..., :, None, :] - preys[..., None, :, :], axis=-1)
    found: NDArray[np.bool_] = (distances.min(-2) <= COVERED).all(-1)
    return found


@functools.cache
def _program(scenario: str, n_envs: int, preys: str) -> Program:
    """Compiled once in a process for those who ask for the same."""
    if scenario == "spread":
        return compiled("mpe_spread", spread(), n_envs)
    name = f"mpe_{scenario}" + ("" if preys == "jaxmarl" else f"_{preys}")
    return compiled(name, predator_prey(scenario == "facmac_distinct", preys == "fleeing"), n_envs)


def facmac_simulator() -> Any:
    """jaxmarl's world of predators and preys."""
    return jaxmarl_module("mpe.simple_facmac").SimpleFacmacMPE(
        num_good_agents=N_PREYS,
        num_adversaries=N_PREDATORS,
        num_landmarks=N_OBSTACLES,
        view_radius=-1,
    )


def predator_prey(distinct: bool, flee: bool) -> Rules:
    """Rules of "facmac_distinct" or "facmac_mpe"."""
    simulator = facmac_simulator()
    import jax
    import jax.numpy as jnp

    idle = {name: jnp.zeros(N_ACTIONS) for name in simulator.good_agents}
    reach = simulator.rad[:N_PREDATORS, None] + simulator.rad[None, N_PREDATORS:][:, :N_PREYS]

    def reward_of(points: Any) -> Any:
        predators, preys = points[:N_PREDATORS], points[N_PREDATORS : N_PREDATORS + N_PREYS]
        distances = jnp.linalg.norm(predators[:, None] - preys[None], axis=-1)
        touching = distances < reach  # [predators, preys]
        if not distinct:
            return 10.0 * touching.sum()
        return 10.0 * touching.any(0).sum() - 0.1 * distances.min(0).mean()

    def advance(key: Any, state: Any, view: View, actions: Any) -> tuple[Any, Any]:
        pushes = jax.nn.one_hot(actions, N_ACTIONS)
        acting = {**dict(zip(simulator.adversaries, pushes, strict=True)), **idle}
        if not flee:
            state = simulator.step_env(key, state, acting)[1]
        else:
            forces, _ = simulator.set_actions(acting)
            for prey in range(N_PREDATORS, N_PREDATORS + N_PREYS):
                key, drawn = jax.random.split(key)
                forces = forces.at[prey].set(fleeing(drawn, state.p_pos, simulator.rad, prey))
            points, velocities = simulator._world_step(key, state, forces)
            state = state.replace(p_pos=points, p_vel=velocities, step=state.step + 1)
        return state, reward_of(state.p_pos)

    return _rules(simulator, simulator.adversaries, advance)


def fleeing(key: Any, points: Any, radii: Any, prey: int, n: int = 100) -> Any:
    """The force, of length 1 at most, by which a prey gets away from the predators. [2].

    Of n points drawn uniformly from the disc of radius 1 around it, those count that it would
    reach in a straight line past all others (looked at in five steps); it heads for the one with
    the largest sum of distances to the predators, and stays where there is none.

    Args:
        key: of what is drawn.
        points: positions of all entities, predators first. [n_entities, 2].
        radii: of all entities. [n_entities].
        prey: which entity flees.
        n: points drawn.
    """
    import jax
    import jax.numpy as jnp

    length, turn = jax.random.uniform(key, (2, n))
    angle = 2 * jnp.pi * turn
    aims = jnp.sqrt(length)[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)  # [n, 2]
    way = points[prey] + aims[None] * jnp.linspace(0.2, 1.0, 5)[:, None, None]  # [5, n, 2]
    distances = jnp.linalg.norm(way[:, :, None] - points, axis=-1)  # [5, n, n_entities]
    others = jnp.arange(len(points)) != prey
    free = ~((distances < radii + radii[prey]) & others).any((0, 2))
    scores = jnp.where(free, distances[-1, :, :N_PREDATORS].sum(-1), -jnp.inf)
    return jnp.where(free.any(), aims[scores.argmax()], 0.0)


def spread() -> Rules:
    """Rules of "spread"."""
    simulator = jaxmarl_module("mpe.simple_spread").SimpleSpreadMPE()

    def advance(key: Any, state: Any, view: View, actions: Any) -> tuple[Any, Any]:
        acting = dict(zip(simulator.agents, actions, strict=True))
        _, state, rewards, _, _ = simulator.step_env(key, state, acting)
        return state, sum(rewards[name] for name in simulator.agents)

    return _rules(simulator, simulator.agents, advance)


def _rules(simulator: Any, agents: list[str], advance: Any) -> Rules:
    """The part that the scenarios share."""
    import jax.numpy as jnp

    n = len(agents)

    def fresh(key: Any) -> Any:
        return simulator.reset(key)[1]

    def observe(state: Any) -> View:
        seen = simulator.get_obs(state)
        moving = state.p_vel[: simulator.num_agents]
        return View(
            obs=jnp.stack([seen[name] for name in agents]),
            state=jnp.concatenate([state.p_pos.reshape(-1), moving.reshape(-1)]),
            avail=jnp.ones((n, N_ACTIONS), bool),
            alive=jnp.ones(n, bool),
            agent_type=jnp.zeros(n, jnp.int32),
            terminated=jnp.array(False),
            truncated=state.step >= EPISODE_LIMIT,
            won=jnp.array(False),
        )

    return Rules(fresh, advance, observe)


__all__ = ["EPISODE_LIMIT", "PREYS", "SCENARIOS", "JaxMpe", "covered", "positions"]
