"""The tasks and what the authors set for each; heavy simulators are imported when asked for."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import UserError, choose
from common.marl.predator_prey import PredatorCapturePrey, PredatorPrey
from common.marl.protocol import BatchEnv

EVAL_SEED = 900_000  # of the evaluation's episodes, the same for every method and training seed


@dataclass(frozen=True)
class Settings:
    """Of a task, from the authors' scripts; ours where a comment says so."""

    steps: int = 10_000_000  # environment steps
    n_envs: int = 20  # environments side by side
    horizon: int = 200  # steps of each per update
    epochs: int = 10  # PPO epochs per update
    mini_batches: int = 1  # into which the samples of an epoch are divided
    clip: float = 0.05
    lr: float = 5e-4  # Adam's learning rate of the networks
    warmup: int = 10  # updates with the full graph
    post_ratio: float = 1.0  # share of the updates after which the graph is sampled no more
    diagonal: str = "added"  # C = A + I; "replaced": A without its diagonal, + I
    shared_actor: bool = False  # one head for all agents
    limit: int = 20  # steps that an unfinished evaluation episode counts


def smac(*, steps: float, epochs: int = 10, clip: float = 0.05, **changes: object) -> Settings:
    """A map of SMAC: 32 environments of 100 steps per update."""
    return Settings(
        **{"n_envs": 32, "horizon": 100, "limit": 0, **changes},  # type: ignore[arg-type]
        steps=int(steps * 1e6),
        epochs=epochs,
        clip=clip,
    )


ONE_SEES: dict[str, int | bool] = {"n_predators": 1, "n_capture": 3, "capture_first": True}
GRIDS: dict[str, tuple[type, dict[str, int | bool]]] = {
    "pp-5": (PredatorPrey, {"n_predators": 5}),  # ours: k = 2 of 5
    "pp-3": (PredatorPrey, {"n_predators": 3}),  # the paper's
    # ours: one agent sees; it comes last, so that nobody sees its actions in the decoder
    "pcp-1-3": (PredatorCapturePrey, {"size": 4, **ONE_SEES}),
    "pcp-1-3-wide": (PredatorCapturePrey, ONE_SEES),
    "pcp-2-1": (PredatorCapturePrey, {"n_predators": 2, "n_capture": 1}),  # the paper's
    "pp-tiny": (PredatorPrey, {"size": 3, "n_predators": 2, "vision": 0}),  # smoke and tests
    "pcp-tiny": (
        PredatorCapturePrey,
        {"size": 3, "n_predators": 1, "n_capture": 2, "vision": 0, "capture_first": True},
    ),
}
LATE = {"post_ratio": 0.7}
OTHERS_SMAC = {**LATE, "diagonal": "replaced"}
TASKS: dict[str, Settings] = {
    **dict.fromkeys(GRIDS, Settings()),
    "smac-3m": smac(steps=0.5, epochs=15, clip=0.2),
    "smac-8m": smac(steps=1, epochs=15, clip=0.2),
    "smac-MMM": smac(steps=2, epochs=15, clip=0.2, **LATE),
    "smac-1c3s5z": smac(steps=2, clip=0.2),
    "smac-3s5z": smac(steps=3, **LATE),
    "smac-2c_vs_64zg": smac(steps=5),
    "smac-8m_vs_9m": smac(steps=5),
    "smac-10m_vs_11m": smac(steps=5),
    "smac-5m_vs_6m": smac(steps=10, **LATE),
    "smac-25m": smac(steps=2, epochs=15),
    "smac-27m_vs_30m": smac(steps=10, epochs=5, clip=0.2, **OTHERS_SMAC),
    "smac-6h_vs_8z": smac(steps=10, epochs=15, **OTHERS_SMAC),
    "smac-MMM2": smac(steps=10, warmup=100),
    "smac-3s5z_vs_3s6z": smac(steps=20, epochs=5, post_ratio=0.6, diagonal="replaced"),
}


def make_env(task: str, n_envs: int) -> BatchEnv:
    """The environments of a task.

    Raises:
        UserError: for an unknown task, or a simulator that is not installed.
    """
    choose("task", task, TASKS)
    if task in GRIDS:
        kind, options = GRIDS[task]
        return kind(n_envs, **options)  # type: ignore[no-any-return]
    return starcraft(task.removeprefix("smac-"), n_envs)


def starcraft(map_name: str, n_envs: int) -> BatchEnv:
    """A map of SMAC."""
    from common.marl.environments import make_env as of_family

    return of_family(f"smac:{map_name}", n_envs)


def grid_of(env: BatchEnv) -> PredatorPrey | PredatorCapturePrey:
    """The environment as the grid world that it is.

    Raises:
        UserError: for StarCraft, whose best actions nobody knows.
    """
    if not isinstance(env, (PredatorPrey, PredatorCapturePrey)):
        raise UserError(f"the shortest way is known on the grids only, not in {env.name}")
    return env
