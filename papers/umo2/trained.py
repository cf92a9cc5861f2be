"""A scheduler where a run left it, slot by slot on a network of the caller's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError, choose
from common.run import Run
from common.trained import seed_index
from papers.umo2.config import Config, Setting, settings_of
from papers.umo2.methods import CURRENT, UTILITY, policies
from papers.umo2.simulate import State, admit, allocate, learn, make_plan, new_room
from papers.umo2.task import TASKS, make_network, stream_key

Vector = NDArray[np.float64]


class Scheduler:
    """Splits links slot by slot, and goes on learning: ``act``, serve, ``learn``.

    Args:
        config: of the run.
        setting: one of its settings.
        seed: one of its seeds.
        state: where the run ended.
    """

    def __init__(self, config: Config, setting: Setting, seed: int, state: State) -> None:
        self.setting, self.seed, self._state = setting, seed, state
        policy = policies(config.task)[config.method]
        self._net = make_network(config.task, setting.rho, setting.kappa, setting.horizon)
        V = float(setting.horizon**setting.v) if config.task == UTILITY else 0.0
        self._plan = make_plan(policy, self._net, V=V)
        self._room = new_room(self._net, state)
        self._room.arrivals[:] = 0.0
        self._keys = [stream_key(seed, self._net.stream, purpose) for purpose in (2, 3)]
        self._slot, self._radius = setting.horizon + 1, 0.0

    @property
    def entries(self) -> list[tuple[int, int, int]]:
        """What is split: (tail, head, commodity) of each entry [E]."""
        n = int(self._net.delivered.sum())  # each commodity has one destination
        return [
            (int(a) // n, int(b) // n, int(a) % n)
            for a, b in zip(self._net.source, self._net.sink, strict=True)
        ]

    @property
    def queues(self) -> Vector:
        """[n_nodes * n_commodities] queues that it saw last; at first those of the run's end."""
        return self._state.Q.copy()

    @property
    def arrivals(self) -> Vector:
        """[A] arrivals that ``act`` chose for this slot; zero where they are the network's."""
        return self._room.arrivals.copy()

    def act(self, queues: ArrayLike, capacities: ArrayLike | None = None) -> Vector:
        """Shares [E] of the slot; of a policy that activates one entry per group, 0 or 1.

        Args:
            queues: [n_nodes * n_commodities] before the slot.
            capacities: [E] of this slot, for backpressure that is told them; no other looks.
        """
        self._state.Q[:] = queues
        if self._plan.links == CURRENT:
            if capacities is None:
                raise UserError("this policy is told the capacities of the slot: act(queues, C)")
            self._room.C[:] = capacities
        u_key, activation_key = self._keys
        self._radius = admit(self._net, self._plan, self._slot, u_key, self._state, self._room)
        allocate(self._net, self._plan, self._slot, activation_key, self._state, self._room)
        return self._room.served.copy()

    def learn(self, served: ArrayLike, utility: float = 0.0) -> None:
        """Learn from the slot that ``act`` decided: ``served`` [E] packets, the utility's value."""
        self._room.mu[:] = served
        learn(self._net, self._plan, utility, self._radius, self._state, self._room)
        self._slot += 1


def load_scheduler(folder: Path, seed: int | None, setting: int) -> Scheduler:
    """See :func:`papers.umo2.load`."""
    run = Run.load(folder)
    final = run.final()
    if final["kind"] != "network":
        raise UserError(f"{folder} holds AdaPFOL alone on synthetic losses, no scheduler")
    config = run.config(Config)
    choose("task", config.task, TASKS)
    settings = settings_of(config)
    if not 0 <= setting < len(settings):
        raise UserError(f"the run in {folder} has {len(settings)} settings, numbered from 0")
    k = seed_index(folder, config.seed, seed)
    state = State(**final["states"][setting * len(config.seed) + k])
    return Scheduler(config, settings[setting], config.seed[k], state)
