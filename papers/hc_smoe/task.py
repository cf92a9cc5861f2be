"""Tasks: mixtures that are trained here or public; texts; where stages find each other."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError, choose
from common.textlab import corpus, models, tokens
from common.textlab.tokens import Tokens

DENSE = "dense"  # the task of stage 1
ITEMS_SEED = 7_000_000  # of multiple-choice questions: far from those of weights and batches


@dataclass(frozen=True)
class Family:
    """A mixture that is trained here.

    Attributes:
        kind: of ``transformers``' classes.
        experts: n.
        active: k.
        hidden: ff of an expert, in widths of the model (2 are the dense model's).
        upcycled: it starts from the dense model, or from fresh weights.
    """

    kind: Literal["mixtral", "qwen"]
    experts: int
    active: int
    hidden: int
    upcycled: bool = True


@dataclass(frozen=True)
class Pretrained:
    """A public mixture.

    Attributes:
        name: on the hub.
        tasks: of the LM Evaluation Harness, zero-shot.
    """

    name: str
    tasks: tuple[str, ...] = (
        *("arc_challenge", "arc_easy", "boolq", "hellaswag", "mmlu", "openbookqa", "rte"),
        "winogrande",
    )


FAMILIES = {
    "mixtral": Family("mixtral", 8, 2, 2),
    "qwen": Family("qwen", 16, 4, 1),
    "mixtral-scratch": Family("mixtral", 8, 2, 2, upcycled=False),
}
PRETRAINED = {
    "mixtral-8x7b": Pretrained("mistralai/Mixtral-8x7B-v0.1"),
    "qwen1.5-moe": Pretrained("Qwen/Qwen1.5-MoE-A2.7B-Chat"),
}
C4 = ("allenai/c4", "en/c4-train.00000-of-01024.json.gz")  # the paper's calibration text
# where the library's defaults of the three classes differ: a mixture continues a dense model
ALIKE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "rms_norm_eps": 1e-6}
SHARED = 2  # hidden neurons of the dense network and of Qwen's shared expert, in widths


def family_of(task: str) -> Family:
    """The family of a task that is trained here.

    Raises:
        UserError: for another task.
    """
    return FAMILIES[choose("task", task, FAMILIES)]


@functools.cache
def text(packages: tuple[str, ...], vocabulary: int) -> dict[str, Tokens]:
    """Parts of the corpus: training; validation; "test", which serves as calibration text."""
    read = corpus.standard_library()
    if packages:
        read = corpus.joined(read, corpus.installed(*packages))
    return {part: tokens.tokens(read, vocabulary, part) for part in corpus.PARTS}


def network(cfg: Any) -> Any:
    """The fresh network of a configuration of stage 1 or 2."""
    sizes = (cfg.vocabulary, cfg.length, cfg.layers, cfg.width, cfg.heads)
    settings = {**models.common_settings(*sizes), **ALIKE}
    if cfg.task == DENSE:
        return models.made("Llama", cfg.seed, {**settings, "intermediate_size": SHARED * cfg.width})
    family = family_of(cfg.task)
    experts, hidden = cfg.experts or family.experts, family.hidden * cfg.width
    settings["num_experts_per_tok"] = family.active
    if family.kind == "mixtral":
        own = {"intermediate_size": hidden, "num_local_experts": experts, "sliding_window": None}
        made = models.made("Mixtral", cfg.seed, settings | own)
    else:
        own = {"moe_intermediate_size": hidden, "num_experts": experts, "norm_topk_prob": False}
        own |= {"shared_expert_intermediate_size": SHARED * cfg.width, "decoder_sparse_step": 1}
        made = models.made("Qwen2Moe", cfg.seed, settings | own)
    made.set_experts_implementation("eager")  # batched products are 50 times slower on a CPU
    return made


# -- where stages find each other -----------------------------------------------------------------


def place(out: Path, *parts: str) -> Path:
    """A folder of an earlier stage: SCALE/STAGE/TASK/METHOD beside the run ``out``.

    Where the run is a cell of a grid, there is one folder more between it and the scale.
    """
    places = [at.joinpath(*parts) for at in out.absolute().parents[3:6]]
    return next((found for found in places if found.is_dir()), places[0])


def dense_folder(cfg: Any) -> Path:
    """The run of stage 1 that a run of stage 2 begins with."""
    if cfg.dense is not None:
        return Path(cfg.dense)
    return place(cfg.out, "dense", DENSE, "dense") / f"seed-{cfg.seed}"


def trained_folder(cfg: Any, seed: int) -> Path:
    """The run of stage 2 whose mixture is merged."""
    folder = place(cfg.out, "moe", cfg.task, "moe") if cfg.trained is None else Path(cfg.trained)
    return folder / f"seed-{seed}"


def share_of(r: float, n: int) -> int:
    """How many of n experts are left of a share.

    Raises:
        UserError: for a share that is not in (0, 1].
    """
    if not 0 < r <= 1:
        raise UserError(f"--kept is a share of the experts, in (0, 1], not {r:g}")
    return max(1, round(r * n))
