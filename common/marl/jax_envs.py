"""Environments written in JAX as a :class:`common.marl.protocol.BatchEnv`: one program, no more.

A task gives three pure functions of a single environment (:class:`Rules`). Here they become one
compiled program that steps or begins E of them: stepping and beginning share what observes the
state, which is most of what there is to compile. It is compiled ahead of time, so that it can't be
compiled a second time because of a type that is weak in one call and strong in the next.

Each environment draws from a key of its own: its episodes depend on the seed and on its index, not
on how many stand beside it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.files import cache_root
from common.marl.protocol import Bools, Ints, Seen, Step

# As fast here as full optimisation, and compiled in two thirds of the time.
COMPILER_OPTIONS = {"xla_backend_optimization_level": 1}


class View(NamedTuple):
    """What is seen of a state; a leading axis E where there are E of them.

    Attributes:
        obs: [N, O] float32.
        state: [S] float32.
        avail: [N, A] bool.
        alive: [N] bool.
        agent_type: [N] int32.
        terminated: [] bool.
        truncated: [] bool.
        won: [] bool.
        hidden: arrays that ``advance`` wants again and no caller gets.
    """

    obs: Any
    state: Any
    avail: Any
    alive: Any
    agent_type: Any
    terminated: Any
    truncated: Any
    won: Any
    hidden: Any = ()


class Carry(NamedTuple):
    """Everything that the future of E environments depends on (``view`` follows from ``state``).

    Attributes:
        key: [E, 2] uint32, of the episodes to come and of what is drawn in them.
        state: the simulator's own, a tree of arrays [E, ...].
        view: of ``state``.
    """

    key: Any
    state: Any
    view: View


@dataclass(frozen=True)
class Rules:
    """A task: functions of one environment, in JAX, without side effects.

    Attributes:
        fresh: key -> the state that an episode begins with.
        advance: key, state, its view, actions [N] int32 -> next state, team reward [].
        observe: state -> view. An episode is over where it says terminated or truncated.
    """

    fresh: Callable[[Any], Any]
    advance: Callable[[Any, Any, View, Any], tuple[Any, Any]]
    observe: Callable[[Any], View]


@dataclass(frozen=True)
class Program:
    """Compiled :class:`Rules` of E environments.

    Attributes:
        run: carry, actions [E, N] int32, where [E] bool, begin [] bool -> carry, reward [E]. Where
            ``where`` is set, begins an episode or else takes a step, unless the episode is over.
        carry: shapes and types.
    """

    run: Callable[..., tuple[Carry, Any]]
    carry: Carry


def start_jax() -> None:
    """Have JAX begin as it is needed here; where it has begun already, it stays as it is.

    On the CPU unless ``$JAX_PLATFORMS`` says otherwise (the GPU's memory is the learner's), on one
    thread (the steps are so small that handing them to others costs more than it gains, and jobs
    run side by side), and with compiled programs kept in ``jax`` of
    :func:`common.files.cache_root` unless ``$JAX_COMPILATION_CACHE_DIR`` names another folder.

    Raises:
        UserError: if JAX is not installed.
    """
    if "--xla_cpu_multi_thread_eigen" not in os.environ.get("XLA_FLAGS", ""):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
        os.environ["XLA_FLAGS"] = flags.strip()
    try:
        import jax
    except ModuleNotFoundError as error:
        raise missing("jax") from error
    if not jax.config.values["jax_platforms"]:
        jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_root() / "jax"
        with contextlib.suppress(OSError):  # without a cache it is compiled at each start
            folder.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = before or "1"  # XLA's name for the size of its pool of threads
    try:
        jax.devices()  # the pool is made here
    finally:
        if before is None:
            del os.environ["NPROC"]


def missing(package: str) -> UserError:
    """The error for a package that these environments need and that isn't installed."""
    return UserError(
        f"the package '{package}' is missing; 'make setup PAPER=<paper>' installs what a paper "
        'needs (extra "marl")'
    )


def jaxmarl_module(name: str) -> types.ModuleType:
    """The module ``jaxmarl.environments.NAME`` without the other environments of the package.

    ``import jaxmarl`` computes the layouts of all its environments (2 to 3 s), loads matplotlib
    and prints on stdout. Modules of the same path that are empty stand in for the two packages
    above the one that is wanted, and go when it is loaded.

    Raises:
        UserError: if jaxmarl is not installed.
    """
    start_jax()
    spec = find_spec("jaxmarl")
    if spec is None or not spec.submodule_search_locations:
        raise missing("jaxmarl")
    root = next(iter(spec.submodule_search_locations))
    above = {"jaxmarl": root, "jaxmarl.environments": os.path.join(root, "environments")}
    stand_ins = {k: v for k, v in above.items() if k not in sys.modules}
    for package, path in stand_ins.items():
        empty = types.ModuleType(package)
        empty.__path__ = [path]
        sys.modules[package] = empty
    try:
        return importlib.import_module(f"jaxmarl.environments.{name}")
    finally:
        for package in stand_ins:
            sys.modules.pop(package, None)


def environment_keys(seed: int, n_envs: int) -> NDArray[np.uint32]:
    """Keys of E environments; that of an index is the same whatever E is. [E, 2]."""
    streams = [np.random.SeedSequence(seed, spawn_key=(e,)) for e in range(n_envs)]
    return np.stack([stream.generate_state(2) for stream in streams])


def compiled(name: str, rules: Rules, n_envs: int) -> Program:
    """The program of ``n_envs`` environments.

    Args:
        name: of the task, for the file that keeps the program.
        rules: of the task.
        n_envs: E.
    """
    import jax
    import jax.numpy as jnp

    # Types that are weak would spread from constants into the state.
    def strong(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), tree)

    def fresh(key: Any) -> tuple[Any, Any]:
        key, drawn = jax.random.split(key)
        return strong((key, rules.fresh(drawn)))

    def advance(carry: Carry, actions: Any) -> tuple[Any, Any, Any]:
        key, drawn = jax.random.split(carry.key)
        state, reward = rules.advance(drawn, carry.state, carry.view, actions)
        return strong((key, state, jnp.float32(reward)))

    def run(carry: Carry, actions: Any, where: Any, begin: Any) -> tuple[Carry, Any]:
        key, state, reward = jax.lax.cond(
            begin,
            lambda: (*jax.vmap(fresh)(carry.key), jnp.zeros(n_envs)),
            lambda: jax.vmap(advance)(carry, actions),
        )
        over = carry.view.terminated | carry.view.truncated
        moved = where & (begin | ~over)

        def choose(new: Any, old: Any) -> Any:
            return jnp.where(moved.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        key, state = jax.tree.map(choose, (key, state), (carry.key, carry.state))
        view = strong(jax.vmap(rules.observe)(state))
        return Carry(key, state, view), jnp.where(moved, reward, 0.0)

    def begun(key: Any) -> Carry:
        key, state = jax.vmap(fresh)(key)
        return Carry(key, state, strong(jax.vmap(rules.observe)(state)))

    run.__name__ = "".join(c if c.isalnum() else "_" for c in f"{name}_{n_envs}")
    carry = jax.eval_shape(begun, jax.ShapeDtypeStruct((n_envs, 2), np.uint32))
    n_agents = carry.view.avail.shape[1]
    actions = jax.ShapeDtypeStruct((n_envs, n_agents), np.int32)
    where = jax.ShapeDtypeStruct((n_envs,), np.bool_)
    lowered = jax.jit(run).lower(carry, actions, where, jax.ShapeDtypeStruct((), np.bool_))
    return Program(_compile(lowered, run.__name__), carry)


def _compile(lowered: Any, name: str) -> Any:
    """A compiled program, from JAX's cache if it is there.

    JAX writes an entry in place and never again: one that was cut short (power, a full disk) would
    be in the way for good, so it is removed.
    """
    import jax

    jax.config.update("jax_raise_persistent_cache_errors", True)
    try:
        return lowered.compile(COMPILER_OPTIONS)
    except Exception:  # raised again below if it is about the program
        folder = jax.config.values["jax_compilation_cache_dir"]
        for entry in Path(folder).glob(f"jit_{name}-*") if folder else ():
            entry.unlink(missing_ok=True)
    finally:
        jax.config.update("jax_raise_persistent_cache_errors", False)
    return lowered.compile(COMPILER_OPTIONS)


class JaxEnv:
    """A :class:`Program` as a :class:`common.marl.protocol.BatchEnv` with discrete actions.

    Once an episode is over, ``terminated``, ``truncated`` and ``won`` stay as they are until the
    environment is reset.
    """

    action_dim = 0

    def __init__(
        self, name: str, program: Program, *, episode_limit: int, n_types: int = 1
    ) -> None:
        view = program.carry.view
        self.name = name
        self.n_envs, self.n_agents, self.obs_dim = view.obs.shape
        self.state_dim = int(view.state.shape[1])
        self.n_actions = int(view.avail.shape[2])
        self.episode_limit = episode_limit
        self.n_types = n_types
        self._program = program
        self._carry: Carry | None = None
        self._avail: Bools = np.zeros(view.avail.shape, bool)
        self._running: Bools = np.zeros(self.n_envs, bool)

    def reset(self, seed: int) -> Seen:
        """Begin an episode in every environment; the same seed, the same episodes to come."""
        import jax

        blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self._program.carry)
        self._carry = blank._replace(key=environment_keys(seed, self.n_envs))
        return self.reset_where(np.ones(self.n_envs, bool))

    def reset_where(self, mask: Bools) -> Seen:
        """Begin anew where ``mask`` [E] is set."""
        where = np.asarray(mask, bool)
        if where.shape != (self.n_envs,):
            raise ValueError(f"the mask is {where.shape}, not ({self.n_envs},)")
        actions = np.zeros((self.n_envs, self.n_agents), np.int32)
        seen, _ = self._run(actions, where, np.bool_(True))
        return seen

    def step(self, actions: Ints) -> Step:
        """Act, [E, N] integers.

        Raises:
            ValueError: for an action that is not available to an agent of a running episode.
        """
        checked = self._checked(np.asarray(actions))
        seen, reward = self._run(checked, np.ones(self.n_envs, bool), np.bool_(False))
        view = self._begun.view
        terminated, truncated = np.array(view.terminated), np.array(view.truncated)
        return Step(seen, np.array(reward), terminated, truncated, np.array(view.won))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the future depends on: arrays by name."""
        import jax

        leaves = jax.tree_util.tree_flatten_with_path(self._begun)[0]
        return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what ``state_dict`` gave.

        Raises:
            ValueError: if it is that of another task, or of another number of environments.
        """
        import jax

        leaves, tree = jax.tree_util.tree_flatten_with_path(self._program.carry)
        expected = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
        for name, leaf in expected.items():
            found = state.get(name)
            if found is None or (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
                raise ValueError(f"'{name}' is no part of {self.n_envs} environments {self.name}")
        copies = [np.array(state[name]) for name in expected]
        self._look(jax.tree_util.tree_unflatten(tree, copies))

    @property
    def _begun(self) -> Carry:
        if self._carry is None:
            raise ValueError("no episode has begun: call reset first")
        return self._carry

    def _run(self, actions: Any, where: Any, begin: Any) -> tuple[Seen, Any]:
        carry, reward = self._program.run(self._begun, actions, where, begin)
        return self._look(carry), reward

    def _look(self, carry: Carry) -> Seen:
        """Take over a carry; what is given out are copies that the caller may write to."""
        self._carry, view = carry, carry.view
        self._avail = np.array(view.avail)
        self._running = ~(np.asarray(view.terminated) | np.asarray(view.truncated))
        return Seen(
            obs=np.array(view.obs),
            state=np.array(view.state),
            avail=self._avail.copy(),
            alive=np.array(view.alive),
            agent_type=np.array(view.agent_type, np.int64),
        )

    def _checked(self, actions: NDArray[Any]) -> NDArray[np.int32]:
        if actions.shape != (self.n_envs, self.n_agents) or actions.dtype.kind not in "iu":
            expected = f"({self.n_envs}, {self.n_agents}) integers"
            raise ValueError(f"the actions are {actions.shape} {actions.dtype}, not {expected}")
        chosen = np.where(self._running[:, None], actions, 0)
        inside = (chosen >= 0) & (chosen < self.n_actions)
        avail = np.take_along_axis(self._avail, np.where(inside, chosen, 0)[..., None], 2)[..., 0]
        wrong = self._running[:, None] & ~(inside & avail)
        if wrong.any():
            e, n = np.argwhere(wrong)[0]
            raise ValueError(f"action {actions[e, n]} is not available to agent {n} of {e}")
        return chosen.astype(np.int32)


__all__ = [
    "Carry",
    "JaxEnv",
    "Program",
    "Rules",
    "View",
    "compiled",
    "environment_keys",
    "jaxmarl_module",
    "missing",
    "start_jax",
]
