"""The configurations of the two stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError, choose
from papers.liar.method import Recipe, Ridge
from papers.liar.methods import METHODS
from papers.liar.task import TASKS, Setting, setting_of


@dataclass
class DecoderConfig:
    """A small Llama on the standard library's sources."""

    method: str = "llama"  # there is no other
    task: str = "llama"  # there is no other
    seed: int = 0  # of weights and batches
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    vocabulary: int = 1024  # tokens
    length: int = 128  # of a window
    layers: int = 4
    width: int = 128
    heads: int = 4
    hidden: int = 344  # neurons of a layer's feed-forward part
    batch: int = 8  # windows of a step
    steps: int = 600  # of AdamW
    lr: float = 3e-3  # its highest learning rate
    log_every: int = 20  # steps


@dataclass
class Config:
    """Prune and reconstruct in several settings, one after the other. None: the task's value."""

    method: str = "liar"  # see methods.METHODS
    task: str = "minilm"  # see task.TASKS
    seed: int = 0  # of calibration texts, evaluation texts, random scores
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    settings: tuple[str, ...] | None = None  # CRITERION-PARTS-PERCENT each
    texts: int | None = None  # calibration texts
    length: int | None = None  # tokens of each
    target: str | None = None  # dense, local or stream (the method's own)
    ridge: str | None = None  # lambda, relative, or adaptive (the method's own)
    bias: str | None = None  # own, or add: projections without a bias get one
    pairs: int = 250  # pairs of a search
    eval_length: int = 64  # tokens of an evaluated text
    held_out: int = 48  # texts on which modules are compared
    windows: int = 128  # of a perplexity
    questions: int = 0  # of a multiple choice, for decoders that can answer them
    batch: int = 32  # texts at once
    steps: int = 50  # of retraining
    lr: float = 1e-4  # of retraining
    decoder: Path | None = None  # run of the decoder; default: the same seed's
    keep: str = ""  # setting whose weights are written; default: the first
    compare: tuple[str, ...] = ("flap-all-50", "magnitude-all-50")  # where modules are compared
    zero_shot: tuple[str, ...] = ()  # tasks of the LM Evaluation Harness (published decoders)


def settings_of(cfg: Config) -> list[Setting]:
    """The settings of a run.

    Raises:
        UserError: for an unknown method, task or setting, or numbers that make no sense.
    """
    method = METHODS[cfg.method]
    choose("task", cfg.task, TASKS)
    names = TASKS[cfg.task].settings if cfg.settings is None else cfg.settings
    if not names:
        raise UserError("--settings names none; write e.g. flap-all-50")
    found = [setting_of(name) for name in names]
    for setting in found:
        if setting.of_weights and not method.way and method.kind == "closed":
            able = ", ".join(m.name for m in METHODS.values() if m.way)
            raise UserError(f"{method.name} prunes no single weights; choose among: {able}")
        if not setting.of_weights and method.way == "sparsegpt":
            raise UserError(f"{method.name} prunes single weights: {setting.name} is of units")
    if cfg.keep and cfg.keep not in names:
        raise UserError(f"--keep {cfg.keep} is none of the settings {', '.join(names)}")
    for name in ("texts", "length", "pairs", "eval_length", "held_out", "windows", "batch"):
        value = getattr(cfg, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is 1 or more, not {value}")
    recipe_of(cfg)
    return found


def ridge_of(text: str, to: str) -> Ridge | None:
    """A ridge from its text; None for "adaptive".

    Raises:
        UserError: if it is no number, 0 or more.
    """
    if text == "adaptive":
        return None
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise UserError(f"--ridge is a number, 0 or more, or 'adaptive', not '{text}'")
    return Ridge(size, "zero" if to == "zero" else "old")


def recipe_of(cfg: Config) -> Recipe:
    """How a run reconstructs: the method's own, with the configuration's changes.

    Raises:
        UserError: for values that there are not.
    """
    method, task = METHODS[cfg.method], TASKS[cfg.task]
    target = method.target if cfg.target is None else cfg.target
    choose("target", target, ("dense", "local", "stream"))
    bias = choose("bias", task.bias if cfg.bias is None else cfg.bias, ("own", "add"))
    ridge = ridge_of(method.ridge if cfg.ridge is None else cfg.ridge, method.shrink_to)
    return Recipe(method.solve, ridge, target, bias == "add")  # type: ignore[arg-type]


__all__ = ["Config", "DecoderConfig", "recipe_of", "ridge_of", "settings_of"]
