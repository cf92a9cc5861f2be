"""Level-based foraging and the robotic warehouse in batches.

Both are gymnasium environments with a tuple per agent of spaces, observations and rewards; here
they are dressed as environments of PettingZoo's parallel API.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from common.errors import choose
from common.marl.pettingzoo_env import ParallelSingle
from common.marl.vectors import Vectors


class TupleAsParallel:
    """A gymnasium environment with tuples (a space, an observation, a reward per agent).

    One "done" for all, which these environments also say at their time limit: an episode that is
    done after ``limit`` steps has terminated only if ``solved`` says that nothing is left to do.

    Args:
        env: the environment.
        limit: most steps of an episode.
        solved: whether the environment's task is done, given it as it is.
        forget: makes the environment forget the last episode, before the next one.
    """

    def __init__(
        self,
        env: Any,
        limit: int,
        solved: Callable[[Any], bool] = lambda world: False,
        forget: Callable[[Any], None] = lambda world: None,
    ) -> None:
        self.env, self.max_cycles, self._solved, self._forget = env, limit, solved, forget
        self.possible_agents = list(range(len(env.action_space)))
        self.agents = list(self.possible_agents)
        self._steps = 0

    @property
    def unwrapped(self) -> Any:
        return self

    def observation_space(self, agent: int) -> Any:
        return self.env.observation_space[agent]

    def action_space(self, agent: int) -> Any:
        return self.env.action_space[agent]

    def reset(self, seed: int) -> tuple[dict[int, Any], dict[int, Any]]:
        self._forget(self.env.unwrapped)
        observations, _ = self.env.reset(seed=seed)
        self.agents, self._steps = list(self.possible_agents), 0
        return dict(enumerate(observations)), {a: {} for a in self.agents}

    def step(self, actions: Mapping[int, Any]) -> tuple[dict[int, Any], ...]:
        observations, rewards, done, cut, _ = self.env.step(tuple(actions.values()))
        self._steps += 1
        solved = bool(self._solved(self.env.unwrapped))
        late = self._steps >= self.max_cycles
        terminated = bool(done) and (solved or not late)
        truncated = not terminated and (bool(cut) or late)
        agents = self.agents
        if terminated or truncated:
            self.agents = []
        return (
            dict(enumerate(observations)),
            dict(enumerate(rewards)),
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            {a: {"won": terminated and solved} for a in agents},
        )


class Foraging(Vectors[ParallelSingle]):
    """Level-based foraging (lbforaging): food is loaded by agents of enough level together.

    The reward of an episode is at most 1, the share of the food (by level) that was loaded; it is
    won when nothing is left. The state is all observations.

    Args:
        task: "8x8-2p-2f-coop", "2s-10x10-3p-3f", ...: the registered name without "Foraging-" and
            the version.
        n_envs: E.
        reward: the team's: "sum" or "mean" of the agents' rewards.

    Raises:
        UserError: for an unknown task.
    """

    def __init__(self, task: str, n_envs: int, *, reward: str = "sum") -> None:
        import lbforaging  # noqa: F401  (registers its tasks)

        examples = ["8x8-2p-2f-coop", "10x10-3p-3f", "2s-10x10-3p-3f", "15x15-4p-5f"]
        name = _registered("lbf", task, "Foraging-{}-v3", examples)

        def make() -> ParallelSingle:
            env = _made(name)
            limit = env.unwrapped._max_episode_steps
            wrapped = TupleAsParallel(env, limit, lambda world: world.field.sum() == 0, _no_players)
            return ParallelSingle(wrapped, reward=reward)

        super().__init__(f"lbf:{task}", n_envs, make)


def _no_players(world: Any) -> None:
    """Take the players off the field: new ones would keep clear of where they stood last."""
    for player in world.players:
        player.position = None


class Warehouse(Vectors[ParallelSingle]):
    """The robotic warehouse (rware): requested shelves are to be brought to the goal.

    Its episodes have no end but the time limit. The state is all observations.

    Args:
        task: "tiny-2ag", "small-4ag-hard", ...: the registered name without "rware-" and the
            version.
        n_envs: E.
        reward: the team's: "sum" or "mean" of the agents' rewards.

    Raises:
        UserError: for an unknown task.
    """

    def __init__(self, task: str, n_envs: int, *, reward: str = "sum") -> None:
        import rware  # noqa: F401  (registers its tasks)

        examples = ["tiny-2ag", "tiny-4ag-hard", "small-4ag", "medium-6ag-easy"]
        name = _registered("rware", task, "rware-{}-v2", examples)

        def make() -> ParallelSingle:
            env = _made(name)
            limit = env.unwrapped.max_steps
            return ParallelSingle(TupleAsParallel(env, limit), reward=reward)

        super().__init__(f"rware:{task}", n_envs, make)


def _registered(kind: str, task: str, form: str, examples: list[str]) -> str:
    """The name by which gymnasium knows ``task``."""
    import gymnasium

    name = form.format(task)
    if name not in gymnasium.registry:  # of thousands: those that are near, or some
        near = difflib.get_close_matches(name, gymnasium.registry, n=3, cutoff=0.7)
        head, tail = form.split("{}")
        ours = [n.removeprefix(head).removesuffix(tail) for n in near if n.startswith(head)]
        choose(f"{kind} task", task, ours or examples)
    return name


def _made(name: str) -> Any:
    import gymnasium

    # gymnasium's checker knows environments of one agent only, and complains
    return gymnasium.make(name, disable_env_checker=True)


__all__ = ["Foraging", "TupleAsParallel", "Warehouse"]
