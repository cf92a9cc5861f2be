"""Meta-World v3 without a new simulator per episode: one compiled model, many episodes.

A ``TaskSimulator`` compiles the model of a task once (0.1–0.3 s, 21 MB). An episode is a
shallow copy of Meta-World's own environment object with its own ``MjData`` and the pristine Python
attributes, so resets, steps, rewards and success are Meta-World's own code. Resets move some bodies
and sites *in the model*; each episode keeps its own positions and puts them back when it is stepped
after another one. Hence an episode depends on its seed and actions alone: not on the episodes
before or beside it, as it does in Meta-World, where a reset starts from the last episode's model.
"""

from __future__ import annotations

import copy
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.control.clouds import Camera, PointCloud
from common.control.episodes import Episode, cached_episodes
from common.errors import UserError, choose

Floats = NDArray[np.float32]
OBS_DIM = 39  # hand 3, gripper 1, two objects 2 x 7; the frame before 18; goal 3
ACTION_DIM = 4  # hand translation, gripper
MAX_STEPS = 500  # Meta-World's own time limit
LIBRARIES = ("metaworld", "mujoco", "numpy")  # their versions change the physics or the draws
_MOVED = ("body_pos", "site_pos")  # the arrays of a model that resets change
_SHARED = {  # attributes that episodes share with the environment they are made from
    *("model", "data", "mujoco_renderer", "spec", "metadata", "action_space"),
    *("observation_space", "sawyer_observation_space", "_random_reset_space", "goal_space"),
}
_DEMONSTRATION, _EVALUATION, _GOAL = 1, 2, 3  # streams of seeds that never meet


def task_names() -> list[str]:
    """The 50 tasks of Meta-World v3, sorted."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    return sorted(ALL_V3_ENVIRONMENTS)


def episode_seed(task: str, stream: int, number: int) -> int:
    """Seed of the initial state of one episode; differs between tasks and streams."""
    key = [zlib.crc32(task.encode()), stream, number]
    return int(np.random.SeedSequence(key).generate_state(1, np.uint32)[0])


class TaskSimulator:
    """All episodes of one Meta-World task (``"reach-v3"``); the goal is part of the observation."""

    def __init__(self, task: str) -> None:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        self.task = choose("Meta-World task", task, ALL_V3_ENVIRONMENTS)
        plain = ALL_V3_ENVIRONMENTS[task]
        fast = type(plain.__name__, (plain,), {"touching_object": _touching_object})
        env = fast()
        env._partially_observable = False  # the goal's position stays in the observation
        env.__dict__.pop("sawyer_observation_space", None)  # cached for the hidden goal
        env._freeze_rand_vec = False  # a fresh draw at every reset ...
        env.seeded_rand_vec = True  # ... from the environment's own generator
        env._set_task_called = True
        _ = env.sawyer_observation_space
        self._env = env
        self._pristine = {name: getattr(env.model, name).copy() for name in _MOVED}
        self._holder: SimulatedEpisode | None = None

    def evaluation(self, number: int) -> SimulatedEpisode:
        """Evaluation episode ``number``: the same initial state for every policy."""
        return SimulatedEpisode(self, episode_seed(self.task, _EVALUATION, number))

    def demonstration(self, number: int, stream: int = 0) -> SimulatedEpisode:
        """Episode ``number`` of the demonstrations, whose seeds evaluation never uses."""
        seed = episode_seed(self.task, _DEMONSTRATION + 16 * (stream + 1), number)
        return SimulatedEpisode(self, seed)

    def goal(self, number: int) -> SimulatedEpisode:
        """An episode of goal ``number``: goal and objects where every episode of it has them."""
        return SimulatedEpisode(self, episode_seed(self.task, _GOAL, number))

    def _clone(self) -> Any:
        source = self._env
        env = object.__new__(type(source))
        shared = {k: v for k, v in vars(source).items() if k in _SHARED}
        own = {k: copy.deepcopy(v) for k, v in vars(source).items() if k not in _SHARED}
        env.__dict__.update(own | shared)
        return env


class SimulatedEpisode:
    """One episode of a :class:`TaskSimulator`, reset from ``seed`` and ready to be stepped."""

    obs: Floats  # [39]
    success: bool
    steps: int

    def __init__(self, simulator: TaskSimulator, seed: int) -> None:
        import mujoco

        self._simulator = simulator
        model = simulator._env.model
        for name, value in simulator._pristine.items():
            getattr(model, name)[:] = value
        env = self._env = simulator._clone()
        env.data = mujoco.MjData(model)
        # views into the data of the environment that this one is copied from: bind them anew
        env.init_left_pad = env.get_body_com("leftpad")
        env.init_right_pad = env.get_body_com("rightpad")
        env.np_random = np.random.default_rng(seed)
        obs, _ = env.reset()
        self._moved = {name: getattr(model, name).copy() for name in _MOVED}
        simulator._holder = self
        self.obs = obs.astype(np.float32)
        self._exact_obs = obs
        self.success = False
        self.steps = 0
        self.reward = 0.0

    def _hold(self) -> None:
        """Put this episode's positions into the shared model."""
        if self._simulator._holder is not self:
            for name, value in self._moved.items():
                getattr(self._env.model, name)[:] = value
            self._simulator._holder = self

    def step(self, action: Floats) -> None:
        """Apply one action [4]; ``success`` stays true once the task was solved."""
        self._hold()
        obs, reward, _, _, info = self._env.step(np.clip(action, -1.0, 1.0))
        self._exact_obs = obs
        self.obs = obs.astype(np.float32)
        self.reward = float(reward)
        self.success = self.success or info["success"] > 0
        self.steps += 1

    def cloud(self, camera: Camera) -> Floats:
        """Point cloud [points, 3] that a depth camera sees of the current state."""
        self._hold()
        return camera.see(self._env.model, self._env.data)


def _touching_object(env: Any, object_geom_id: int) -> bool:
    """Meta-World's ``touching_object`` over arrays: its loops take half of a step's time."""
    contacts = env.data.contact
    geoms = np.asarray(contacts.geom)  # [contacts, 2]
    with_object = (geoms == object_geom_id).any(-1)
    if not with_object.any():
        return False
    addresses = np.asarray(contacts.efc_address)
    forces = env.data.efc_force
    for pad in ("leftpad_geom", "rightpad_geom"):
        touching = with_object & (geoms == env.data.geom(pad).id).any(-1)
        if not 0 < sum(forces[a] for a in addresses[touching]):
            return False
    return True


@dataclass(frozen=True)
class DemoConfig:
    """Multimodal scripted demonstrations of one task; each field is part of the data's hash."""

    task: str
    episodes: int = 20  # kept demonstrations
    gains: tuple[float, ...] = (0.5, 1.0)  # factor on the translation, one per episode (the mode)
    noise: float = 0.2  # sigma of an episode's action noise is uniform on [0, noise]
    limit: int = 200  # steps; a demonstration is not longer than an evaluation episode
    tail: int = 2  # steps kept after the first success
    stream: int = 0  # another number: other initial states and draws
    cloud: PointCloud | None = None  # also store what this camera sees
    version: int = 1  # of the generator


def demonstrations(config: DemoConfig) -> tuple[list[Episode], dict[str, Any]]:
    """Demonstrations from the cache, generated on first use; see :func:`generate`."""
    mode = "x".join(f"{gain:g}".replace(".", "") for gain in config.gains)
    quality = f"scripted-gain{mode}{'-cloud' if config.cloud else ''}"
    return cached_episodes(
        f"repro/metaworld/{config.task}/{quality}-v0",
        {"name": "metaworld-scripted", **asdict(config)},
        lambda: generate(config),
        libraries=LIBRARIES,
    )


def generate(config: DemoConfig) -> tuple[list[Episode], dict[str, Any]]:
    """Meta-World's scripted expert made multimodal: gain per episode, noise on every action.

    The plain expert is a function of the state: a regression policy is optimal on its data. Here
    action = clip(clip(expert) x (gain, gain, gain, 1) + sigma N(0, I)). Only successes are kept,
    the same number of each gain.

    Returns:
        Episodes whose infos hold ``success`` [T], ``gain`` [T], ``sigma`` [T] and, with a camera,
        ``cloud`` [T + 1, points, 3]; and the metadata: success rate of the expert per gain.

    Raises:
        UserError: if the expert fails so often that the episodes do not come together.
    """
    from metaworld.policies import ENV_POLICY_MAP

    simulator = TaskSimulator(config.task)
    expert: Any = ENV_POLICY_MAP[config.task]()  # type: ignore[abstract]
    camera = Camera(config.cloud) if config.cloud else None
    quota = {
        gain: len(range(rank, config.episodes, len(config.gains)))
        for rank, gain in enumerate(config.gains)
    }
    kept: dict[float, list[Episode]] = {gain: [] for gain in config.gains}
    tried = dict.fromkeys(config.gains, 0)
    number = 0
    while any(len(kept[gain]) < quota[gain] for gain in config.gains):
        gain = config.gains[number % len(config.gains)]
        if len(kept[gain]) < quota[gain]:
            episode = _demonstrate(simulator, expert, config, camera, number, gain)
            tried[gain] += 1
            if episode is not None:
                kept[gain].append(episode)
        number += 1
        if number > 40 * config.episodes:
            raise UserError(
                f"the scripted expert of {config.task} hardly succeeds within {config.limit} "
                f"steps at gains {config.gains}; raise the limit or the gains"
            )
    order = [e for group in zip(*map(_padded(config), kept.values()), strict=True) for e in group]
    episodes = [e for e in order if e is not None]
    return episodes, {
        "attempts": {f"{gain:g}": tried[gain] for gain in config.gains},
        "success_rate": {f"{gain:g}": len(kept[gain]) / max(tried[gain], 1) for gain in kept},
        "longest": max(len(e) for e in episodes),
    }


def _padded(config: DemoConfig) -> Any:
    rounds = -(-config.episodes // len(config.gains))
    return lambda episodes: [*episodes, *[None] * (rounds - len(episodes))]


def _demonstrate(
    simulator: TaskSimulator,
    expert: Any,
    config: DemoConfig,
    camera: Camera | None,
    number: int,
    gain: float,
) -> Episode | None:
    """One attempt; None if it fails."""
    key = [zlib.crc32(config.task.encode()), 3, config.stream, number]
    rng = np.random.default_rng(key)
    sigma = rng.uniform(0.0, config.noise)
    scale = np.array([gain, gain, gain, 1.0])
    episode = simulator.demonstration(number, config.stream)
    observations = [episode.obs]
    actions: list[Floats] = []
    rewards: list[float] = []
    clouds = [episode.cloud(camera)] if camera else []
    successes: list[bool] = []
    left = config.tail
    while len(actions) < config.limit and left >= 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "constants may be too high", once per step
            wanted = np.clip(expert.get_action(episode._exact_obs), -1.0, 1.0)
        action = np.clip(wanted * scale + sigma * rng.standard_normal(ACTION_DIM), -1.0, 1.0)
        action = action.astype(np.float32)
        episode.step(action)
        observations.append(episode.obs)
        actions.append(action)
        rewards.append(episode.reward)
        successes.append(episode.success)
        if camera:
            clouds.append(episode.cloud(camera))
        if episode.success:
            left -= 1
    if not episode.success:
        return None
    steps = len(actions)
    infos: dict[str, NDArray[Any]] = {
        "success": np.array(successes),
        "gain": np.full(steps, gain, np.float32),
        "sigma": np.full(steps, sigma, np.float32),
    }
    if clouds:
        infos["cloud"] = np.stack(clouds)
    ends = np.zeros(steps, bool)
    ends[-1] = True
    return Episode(
        np.stack(observations),
        np.stack(actions),
        np.array(rewards, np.float32),
        np.zeros(steps, bool),
        ends,
        infos,
    )


def simulators(tasks: Sequence[str]) -> dict[str, TaskSimulator]:
    """One simulator per task, to be kept for all rollouts of a process."""
    return {task: TaskSimulator(task) for task in tasks}
