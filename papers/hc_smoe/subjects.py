"""What is merged and how it is judged: a mixture trained here, or a public one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common import files
from common.errors import UserError
from common.textlab import evaluate, public, store
from common.textlab.tokens import fixed_windows
from papers.hc_smoe.config import Config
from papers.hc_smoe.layers import Inputs, blocks_of, experts_of, inputs_of, visit_inputs
from papers.hc_smoe.method import Calibration, Experts, Statistics
from papers.hc_smoe.pretrain import loaded
from papers.hc_smoe.task import C4, ITEMS_SEED, PRETRAINED, text, trained_folder

VERSION = 1  # of what is stored
FIELDS = ("output", "usage", "score", "logits", "products")
SHUFFLE = 42  # the paper's seed of the calibration text


@dataclass
class Subject:
    """A mixture, its texts, and how it is judged.

    Attributes:
        model: unmerged.
        calibration: tokens. [B, T].
        held_out: tokens on which outputs of layers are compared. [B', T].
        quality: of the model as it is at the moment, with or without questions: metric -> number.
        stored: whether the statistics are worth keeping (they are a forward pass).
        batch: windows at once.
        tokenize: text to numbers.
    """

    model: Any
    calibration: Tensor
    held_out: Tensor
    quality: Callable[[bool], dict[str, float]]
    stored: bool
    batch: int
    tokenize: Callable[[str], list[int]]

    def __post_init__(self) -> None:
        self.experts: list[Experts] = [experts_of(block) for block in blocks_of(self.model)]
        self._inputs: list[Inputs] | None = None
        self._statistics: list[Statistics] | None = None
        #: What goes into each layer on held-out text, unmerged.
        self.held: list[Inputs] = inputs_of(self.model, self.held_out, self.batch)

    @property
    def inputs(self) -> list[Inputs]:
        """What goes into each layer on the calibration text, for those who look at tokens."""
        if self._inputs is None:
            self._inputs = inputs_of(self.model, self.calibration, self.batch)
        return self._inputs

    @property
    def statistics(self) -> list[Statistics]:
        """Of each layer on the calibration text; one forward pass of the unmerged model."""
        if self._statistics is None:
            if self.stored:
                found = store.arrays("hc_smoe", self._key(), self._sums)
            else:
                found = self._sums()
            self._statistics = [
                Statistics(*(torch.from_numpy(found[f"{f}{i}"]).to(e.down.device) for f in FIELDS))
                for i, e in enumerate(self.experts)  # a large model lies on several devices
            ]
        return self._statistics

    def _key(self) -> dict[str, Any]:
        state = self.model.state_dict()
        parts = [files.sha256(t.cpu().numpy().tobytes()) for t in state.values()]
        text_of = files.sha256(self.calibration.numpy().tobytes())
        kind = next(self.model.parameters()).device.type
        return {"model": parts, "text": text_of, "device": kind, "version": VERSION}

    def _sums(self) -> store.Arrays:
        sums = [Calibration(experts) for experts in self.experts]
        visit_inputs(self.model, self.calibration, lambda i, *seen: sums[i].add(*seen), self.batch)
        return {
            f"{name}{i}": getattr(of.statistics(), name).cpu().numpy()
            for i, of in enumerate(sums)
            for name in FIELDS
        }


def trained_here(cfg: Config, seed: int, device: torch.device) -> Subject:
    """A mixture of stage 2: perplexity and multiple choice on validation text.

    The calibration text is the corpus' third part, which nothing is trained or judged on.
    """
    model, training = loaded(trained_folder(cfg, seed), cfg.task, seed)
    model = model.to(device)
    parts = text(training.packages, training.vocabulary)
    length = training.length
    validation, tokenizer = parts["validation"], parts["train"].tokenizer
    windows = fixed_windows(validation.ids, length, cfg.windows)
    items = None
    if cfg.items:
        items = evaluate.multiple_choice(
            validation, cfg.items, ITEMS_SEED + seed, context=length // 2, length=length // 8
        )

    def quality(ask: bool) -> dict[str, float]:
        of = evaluate.quality(model, windows, tokenizer, cfg.batch)
        found = {"nll": of.nll, "perplexity": of.perplexity, "bits_per_byte": of.bits_per_byte}
        if ask and items is not None:
            scores = evaluate.answered(model, items, tokenizer, cfg.batch)
            found["accuracy"] = float(scores.right.mean())
            found["accuracy_by_bytes"] = float(scores.right_by_bytes.mean())
        return found

    return Subject(
        model,
        fixed_windows(parts["test"].ids, length, cfg.calibration)[:, :-1],
        windows[: cfg.errors, :-1],
        quality,
        stored=True,
        batch=cfg.batch,
        tokenize=lambda words: tokenizer.encode([words])[0],
    )


def pretrained(cfg: Config, device: torch.device) -> Subject:
    """A public mixture, calibrated on C4 and judged by zero-shot tasks, as in the paper.

    Raises:
        UserError: if the weights, the text or the harness cannot be had.
    """
    about = PRETRAINED[cfg.task]
    name = cfg.model or about.name
    on = {"dtype": torch.bfloat16, "device_map": "auto"} if device.type == "cuda" else {}
    model = public.model("CausalLM", name, **on).eval().requires_grad_(False)
    model.config.output_router_logits = False
    tokenizer = public.tokenizer(name)
    length = min(2048, model.config.max_position_embeddings)
    ids = c4(tokenizer, (cfg.calibration + cfg.errors) * length)
    windows = torch.tensor(ids).view(-1, length)

    def quality(ask: bool) -> dict[str, float]:
        of = evaluate.harness(model, tokenizer, list(about.tasks), num_fewshot=0)
        each = {f"accuracy_{task}": value for task, value in of.items()}
        return {"accuracy": sum(of.values()) / len(of), **each}

    return Subject(
        model,
        windows[: cfg.calibration],
        windows[cfg.calibration :],
        quality,
        stored=False,
        batch=cfg.batch,
        tokenize=lambda words: list(tokenizer(words)["input_ids"]),
    )


def c4(tokenizer: Any, n: int) -> list[int]:
    """The first n tokens of shuffled texts of C4, one after the other.

    Raises:
        UserError: if the text cannot be had, or is too short.
    """
    name, file = C4
    read = public.data_set(name, columns=("text",), data_files=file)
    ids: list[int] = []
    for line in read.shuffle(seed=SHUFFLE):
        ids += tokenizer(line["text"])["input_ids"]
        if len(ids) >= n:
            return ids[:n]
    raise UserError(f"the calibration text has {len(ids)} tokens, {n} are needed")


def subject_of(cfg: Config, seed: int, device: torch.device) -> Subject:
    """What a configuration names, for one seed."""
    if cfg.task in PRETRAINED:
        return pretrained(cfg, device)
    return trained_here(cfg, seed, device)
