"""Episodes: collected from a batch of environments, kept in a FIFO buffer, padded into batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.marl.protocol import BatchEnv, Bools, Floats, Ints, Seen

Act = Callable[[Seen, int], Ints]  # what is seen at step t -> actions [E, N]
Episode = dict[str, NDArray[Any]]  # see ``collect``
SEEN = ("obs", "state", "avail", "alive", "agent_type")  # one more of these than of actions


@dataclass
class Batch:
    """B episodes, padded to the longest, of T steps.

    Attributes:
        obs: [B, T + 1, N, O].
        state: [B, T + 1, S].
        avail: [B, T + 1, N, A] bool; on padding everything is.
        alive: [B, T + 1, N] bool.
        agent_type: [B, T + 1, N] int64.
        actions: [B, T, N] int64 ([B, T, N, d] float32 where they are continuous).
        reward: [B, T].
        terminated: 1 at the step that ended an episode for good. [B, T].
        filled: 1 on the steps that happened. [B, T].
        extra: whatever else episodes hold, an entry per step. [B, T, ...].
    """

    obs: Tensor
    state: Tensor
    avail: Tensor
    alive: Tensor
    agent_type: Tensor
    actions: Tensor
    reward: Tensor
    terminated: Tensor
    filled: Tensor
    extra: dict[str, Tensor]

    def __len__(self) -> int:
        return self.obs.shape[0]

    @property
    def steps(self) -> int:
        """T."""
        return self.filled.shape[1]


def collect(env: BatchEnv, act: Act, seed: int) -> list[Episode]:
    """One episode of every environment.

    Args:
        env: is reset with ``seed`` first.
        act: called once a step, for all environments; what it does for those whose episode is
            over counts for nothing.
        seed: of the episodes.

    Returns:
        E episodes: ``obs``, ``state``, ``avail``, ``alive``, ``agent_type`` with an entry per
        moment (L + 1), ``actions``, ``reward``, ``terminated`` (float32) with one per step (L),
        and ``won`` [].
    """
    seen = env.reset(seed)
    E = env.n_envs
    moments: list[Seen] = [seen]
    actions: list[Ints] = []
    rewards: list[Floats] = []
    ends: list[Bools] = []
    lengths = np.zeros(E, np.int64)
    won = np.zeros(E, bool)
    running = np.ones(E, bool)
    while running.any():
        chosen = act(seen, len(actions))
        step = env.step(chosen)
        seen = step.seen
        moments.append(seen)
        actions.append(chosen)
        rewards.append(step.reward)
        ends.append(step.terminated)
        lengths += running
        won |= running & step.won
        running = running & ~(step.terminated | step.truncated)
    columns: dict[str, Any] = {name: [getattr(m, name) for m in moments] for name in SEEN}
    stacked = {name: np.stack(values, 1) for name, values in columns.items()}  # [E, T + 1, ...]
    stacked["actions"] = np.stack(actions, 1)
    stacked["reward"] = np.stack(rewards, 1)
    stacked["terminated"] = np.stack(ends, 1).astype(np.float32)
    episodes: list[Episode] = []
    for e, length in enumerate(lengths.tolist()):
        cut = {k: v[e, : length + (k in SEEN)].copy() for k, v in stacked.items()}
        episodes.append({**cut, "won": np.array(won[e])})
    return episodes


def batch_of(episodes: Sequence[Episode], device: torch.device | str = "cpu") -> Batch:
    """Episodes of any lengths as one padded batch; padding is zeros, with every action available.

    Raises:
        ValueError: if there is none.
    """
    if not episodes:
        raise ValueError("a batch needs an episode")
    lengths = [len(e["reward"]) for e in episodes]
    B, T = len(episodes), max(lengths)
    out: dict[str, NDArray[Any]] = {}
    for name, first in episodes[0].items():
        if name == "won":
            continue
        n = T + (name in SEEN)
        array = np.zeros((B, n, *first.shape[1:]), first.dtype)
        if name == "avail":
            array[:] = True
        for b, episode in enumerate(episodes):
            array[b, : len(episode[name])] = episode[name]
        out[name] = array
    filled = np.arange(T)[None, :] < np.array(lengths)[:, None]
    out["filled"] = filled.astype(np.float32)
    tensors = {name: torch.from_numpy(array).to(device) for name, array in out.items()}
    fields = {name: tensors.pop(name) for name in (*SEEN, *_PER_STEP)}
    return Batch(**fields, extra=tensors)


_PER_STEP = ("actions", "reward", "terminated", "filled")


class EpisodeBuffer:
    """The last ``capacity`` episodes.

    Args:
        capacity: in episodes.
    """

    def __init__(self, capacity: int) -> None:
        self.episodes: deque[Episode] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def n_steps(self) -> int:
        """Steps of all episodes that are held."""
        return sum(len(e["reward"]) for e in self.episodes)

    def add(self, episodes: Sequence[Episode]) -> None:
        """Append episodes; the oldest go."""
        self.episodes.extend(episodes)

    def draw(self, n: int, generator: np.random.Generator) -> list[Episode]:
        """``n`` different episodes, uniformly (all, if there are no more)."""
        n = min(n, len(self.episodes))
        return [self.episodes[i] for i in generator.choice(len(self.episodes), n, replace=False)]

    def sample(
        self, n: int, generator: np.random.Generator, device: torch.device | str = "cpu"
    ) -> Batch:
        """``n`` different episodes as a batch, padded to the longest of them."""
        return batch_of(self.draw(n, generator), device)

    def state_dict(self) -> dict[str, Any]:
        """The episodes end to end, an array per name, and their lengths."""
        return joined(list(self.episodes))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what ``state_dict`` gave."""
        self.episodes.clear()
        self.episodes.extend(divided(state))


def joined(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Episodes end to end: an array per name, and ``lengths`` in steps."""
    if not episodes:
        return {"lengths": np.zeros(0, np.int64)}
    lengths = np.array([len(e["reward"]) for e in episodes], np.int64)
    arrays = {
        name: (np.stack if name == "won" else np.concatenate)([e[name] for e in episodes])
        for name in episodes[0]
    }
    return {**arrays, "lengths": lengths}


def divided(arrays: Mapping[str, Any]) -> list[Episode]:
    """What ``joined`` put end to end, episode by episode."""
    lengths = np.asarray(arrays["lengths"], np.int64)
    ends, moments = np.cumsum(lengths), np.cumsum(lengths + 1)
    episodes: list[Episode] = []
    for b, length in enumerate(lengths.tolist()):
        episode: Episode = {}
        for name, array in arrays.items():
            if name == "lengths":
                continue
            if name == "won":
                episode[name] = np.array(array[b])
            elif name in SEEN:
                episode[name] = np.asarray(array[moments[b] - length - 1 : moments[b]])
            else:
                episode[name] = np.asarray(array[ends[b] - length : ends[b]])
        episodes.append(episode)
    return episodes


@dataclass(frozen=True)
class Outcomes:
    """How episodes ended. [n] each.

    Attributes:
        returns: undiscounted sums of rewards.
        won: whether they ended in success.
        lengths: in steps.
    """

    returns: Floats
    won: NDArray[np.bool_]
    lengths: Ints


def outcomes(episodes: Sequence[Episode]) -> Outcomes:
    """Returns, successes and lengths of episodes."""
    return Outcomes(
        np.array([e["reward"].sum() for e in episodes], np.float32),
        np.array([bool(e["won"]) for e in episodes]),
        np.array([len(e["reward"]) for e in episodes], np.int64),
    )


def play(env: BatchEnv, actor: Callable[[], Act], episodes: int, seed: int) -> list[Episode]:
    """``episodes`` episodes, one per environment and round: short ones have no advantage.

    Args:
        env: E environments.
        actor: makes the policy of a round anew (a recurrent one begins with an empty memory).
        episodes: a multiple of E is played, the rest of the last round is dropped.
        seed: of the first round; later rounds take the numbers that follow.
    """
    rounds = -(-episodes // env.n_envs)
    played = [e for i in range(rounds) for e in collect(env, actor(), seed + i)]
    return played[:episodes]


__all__ = [
    "SEEN",
    "Act",
    "Batch",
    "Episode",
    "EpisodeBuffer",
    "Outcomes",
    "batch_of",
    "collect",
    "divided",
    "joined",
    "outcomes",
    "play",
]
