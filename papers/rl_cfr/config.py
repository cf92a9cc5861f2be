"""The configuration of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import UserError, choose
from papers.rl_cfr import leduc
from papers.rl_cfr.abstraction import DEFAULT_SIZES
from papers.rl_cfr.methods import METHODS

TASKS = ("preflop43", *leduc.TASKS)


@dataclass
class Config:
    """One training run."""

    method: str = "rl_cfr"  # a variant of RL-CFR or a baseline, see methods.METHODS
    task: str = "preflop43"  # preflop43, or leduc-4, leduc-6, leduc-8 (stack in chips)
    seed: int = 0  # of the networks, the deals and the exploration
    seed_offset: int = 0  # added to the seed; the study of ablations uses 100, the claims 0
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # the solver and the small networks run on the CPU
    samples: int = 18_000  # public states whose two subgames are solved (paper: about 2e7)
    samples_per_round: int = 150  # data phase, then learning, in turn
    learning_steps: int = 400  # per round (repository: 15,000)
    batch: int = 256  # (repository: 1024)
    n_pairs: int = 2  # K, most raises of a learned abstraction (paper 3, repository 5)
    default_sizes: tuple[float, ...] = DEFAULT_SIZES  # AA_def, pots (repository .5 1 2 4 8)
    share_of_stack: bool = False  # the repository's f instead of the paper's
    stacks: tuple[float, float] = (5.0, 15.0)  # big blinds (repository 10, 100)
    iterations: int = 500  # T of DCFR in training (paper 250)
    tolerance: float = 1.0  # mbb: T is doubled, up to 8 T, while more exploitable; 0: never
    value: str = "average"  # value of a tree: of the average strategies, or "iterates"
    trust_from: float = 21 / 200  # share of the samples after which other nodes use pi (repository)
    no_baseline: bool = False  # ablation: reward v^{AA(a)} alone
    with_ranges: bool = False  # ablation: the networks see the public belief state
    noise: float = 0.15  # standard deviation of the exploration (repository)
    wide_noise: float = 0.6  # … during the first samples
    wide_samples: int = 400
    clip: float = 50.0  # mbb: rewards are clipped to +- this before the critic sees them
    reward_scale: float = 10.0  # mbb per unit of the critic
    lr: float = 3e-4  # Adam, actor and critic (repository)
    tau: float = 0.005  # soft update of the target actor (repository)
    eval_deals: int = 200  # held-out deals of the root gain
    eval_security_deals: int = 50  # of the security loss, against FINE
    eval_deep: int = 100  # of the gain after the first action
    eval_iterations: int = 4_000  # T of DCFR in the evaluation
    eval_tolerance: float = 0.2  # mbb: T is doubled, up to 8 T, while a tree of a gain is above
    tuning_deals: int = 60  # TUNED-FIXED
    tuning_iterations: int = 1_000  # TUNED-FIXED, T of DCFR
    oracle_iterations: int = 2_000  # GRID oracle, T of DCFR in the search


def resolve(cfg: Config) -> Config:
    """The configuration with the variant's changes.

    Raises:
        UserError: for an unknown method, task or kind of value.
    """
    method = METHODS[cfg.method]
    choose("task", cfg.task, TASKS)
    choose("value", cfg.value, ("average", "iterates"))
    if cfg.task in leduc.TASKS:
        choose(f"method of {cfg.task}", cfg.method, [m for m in METHODS if METHODS[m].on_leduc])
    if cfg.samples % cfg.samples_per_round:
        raise UserError("--samples must be a multiple of --samples-per-round")
    return replace(cfg, seed=cfg.seed + cfg.seed_offset, seed_offset=0, **method.changes)
