"""The models of the default scale with their texts and measurements; see also published.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from common import files
from common.run import Run
from common.textlab import corpus, encoder, evaluate, models, store, tokens
from papers.liar import texts
from papers.liar.architecture import Batch, architecture
from papers.liar.config import Config, DecoderConfig
from papers.liar.task import TASKS, decoder_folder
from papers.liar.working import Work, batched

PROBE_C = 10.0  # inverse regularisation of the probe
CONTEXT, ANSWER = 48, 16  # tokens of a question and of its answers


# -- the encoder -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """A linear classifier of vectors of length 1, learnt once on the unpruned encoder's.

    Attributes:
        weight: [classes, d].
        bias: [classes].
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def classes(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """The likeliest class of each vector. [n, d] -> [n]."""
        return (vectors @ self.weight.T + self.bias).argmax(1)


def learnt_probe(vectors: NDArray[np.float32], labels: NDArray[np.int64], n: int) -> Probe:
    """Multinomial logistic regression; classes that do not occur are never chosen."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=PROBE_C, max_iter=1000).fit(vectors, labels)
    weight = np.zeros((n, vectors.shape[1]))
    bias = np.full(n, -1e9)
    weight[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
    return Probe(weight, bias)


def checkpoint_digest(model: Any) -> str:
    """SHA-256 of the weights, by name."""
    parts = {
        name: files.sha256(tensor.detach().cpu().contiguous().numpy().tobytes())
        for name, tensor in model.state_dict().items()
    }
    return store.key_of(**parts)


def frozen_probe(model: Any, tokenizer: Any, limit: int) -> Probe:
    """The classifier of packages on the vectors of all texts of seen files, kept in the store."""
    names = texts.classes()
    both = [(t, p.package) for p in texts.pairs() if p.seen for t in (p.docstring, p.body)]

    def make() -> store.Arrays:
        vectors = encoder.normalised(encoder.embed(model, tokenizer, [t for t, _ in both]))
        labels = np.array([names.index(package) for _, package in both])
        probe = learnt_probe(vectors, labels, len(names))
        return {"weight": probe.weight, "bias": probe.bias}

    key = {
        **{"encoder": checkpoint_digest(model), "limit": limit, "c": PROBE_C, "version": 1},
        "texts": files.sha256("\0".join(text for text, _ in both).encode()),
    }
    found = store.arrays("liar-probes", key, make)
    return Probe(found["weight"], found["bias"])


def retrieval(queries: NDArray[np.float32], candidates: NDArray[np.float32]) -> dict[str, float]:
    """Mean reciprocal rank and recall at 1 where query i belongs to candidate i.

    Ties count half: equal vectors are not a find.
    """
    scores = (queries @ candidates.T).astype(np.float64)
    own = scores.diagonal()[:, None]
    rank = 1 + (scores > own).sum(1) + 0.5 * ((scores == own).sum(1) - 1)
    return {"mrr": float((1 / rank).mean()), "recall": float((rank == 1).mean())}


def encoder_work(cfg: Config, device: torch.device) -> Work:
    """MiniLM on functions of the standard library."""
    task = TASKS[cfg.task]
    model, tokenizer = encoder.load()
    if task.layers:
        model.encoder.layer = model.encoder.layer[: task.layers]
    arch = architecture(model.to(device))
    names = texts.classes()
    probe = frozen_probe(model, tokenizer, cfg.eval_length)
    labelled = texts.calibration(cfg.texts or task.texts, cfg.seed)
    pad = model.config.pad_token_id or 0
    pieces = encoder.pieces(tokenizer, [t for t, _ in labelled], cfg.length or task.length)
    batches, order = batched(pieces, cfg.batch, pad, device)
    labels = [names.index(package) for _, package in labelled]

    unseen = texts.drawn(False, cfg.pairs, cfg.seed)
    judged = [p.docstring for p in unseen] + [p.body for p in unseen]
    truth = np.array([names.index(p.package) for p in unseen] * 2)
    spare = encoder.pieces(tokenizer, judged[: cfg.held_out], cfg.eval_length)
    held_out, _ = batched(spare, cfg.batch, pad, device)

    def vectors(pruned: Any) -> NDArray[np.float32]:
        return encoder.normalised(
            encoder.embed(pruned, tokenizer, judged, limit=cfg.eval_length, batch=cfg.batch)
        )

    whole = vectors(model)

    def measure(pruned: Any) -> dict[str, float]:
        found = whole if pruned is model else vectors(pruned)
        n = len(unseen)
        right = probe.classes(found) == truth
        return {
            **retrieval(found[:n], found[n:]),
            "accuracy": float(right.mean()),
            "body_accuracy": float(right[n:].mean()),
            "cosine": float((found * whole).sum(1).mean()),
        }

    weight, bias = (torch.from_numpy(a).float().to(device) for a in (probe.weight, probe.bias))

    def loss(h: Tensor, batch: Batch, i: int) -> Tensor:
        pooled = F.normalize(encoder.pooled(h, batch.real), dim=-1)
        wanted = torch.tensor([labels[j] for j in order[i]], device=device)
        return F.cross_entropy(pooled @ weight.T + bias, wanted, reduction="sum")

    return Work(arch, batches, held_out, measure, loss, tokenizer)


# -- the decoder -----------------------------------------------------------------------------------


def fresh_decoder(cfg: DecoderConfig) -> Any:
    """A Llama with random weights of the run's seed."""
    return models.llama(
        cfg.vocabulary,
        cfg.length,
        layers=cfg.layers,
        width=cfg.width,
        heads=cfg.heads,
        hidden=cfg.hidden,
        seed=cfg.seed,
    )


def load_decoder(cfg: Config) -> tuple[Any, tokens.Tokenizer, DecoderConfig]:
    """The decoder that the first stage trained, its tokenizer and configuration.

    Raises:
        UserError: if it is not there or not finished.
    """
    run = Run.load(decoder_folder(cfg))
    own = run.config(DecoderConfig)
    model = fresh_decoder(own)
    model.load_state_dict(run.final()["model"])
    return model, tokens.tokenizer(corpus.standard_library(), own.vocabulary), own


@torch.no_grad()
def next_tokens(model: Any, windows: Tensor, batch: int) -> float:
    """Share of the tokens that are the likeliest after those before them. [n, T + 1]."""
    device = next(model.parameters()).device
    right = [
        (models.logits(model, part[:, :-1]).argmax(-1) == part[:, 1:]).float().mean(1)
        for part in windows.to(device).split(batch)
    ]
    return float(torch.cat(right).mean())


def decoder_work(cfg: Config, device: torch.device) -> Work:
    """The small Llama: perplexity and multiple choice on unseen files of the standard library."""
    task, library = TASKS[cfg.task], corpus.standard_library()
    model, tokenizer, own = load_decoder(cfg)
    arch = architecture(model.to(device))
    length = min(cfg.length or task.length, own.length)
    rng = torch.Generator().manual_seed(cfg.seed)

    def windows(part: corpus.Part, n: int, size: int) -> Tensor:
        return tokens.random_windows(tokens.tokens(library, own.vocabulary, part).ids, n, size, rng)

    def side_by_side(ids: Tensor) -> list[Batch]:
        parts = ids[:, :-1].split(cfg.batch)
        return [Batch(p, torch.ones_like(p, dtype=torch.bool)).to(device) for p in parts]

    calibration = windows("train", cfg.texts or task.texts, length)
    batches = side_by_side(calibration)
    held_out = side_by_side(windows("validation", cfg.held_out, length))
    judged = windows("validation", cfg.windows, own.length)
    items = None
    if cfg.questions:
        items = evaluate.multiple_choice(
            tokens.tokens(library, own.vocabulary, "validation"),
            *(cfg.questions, cfg.seed),
            context=min(CONTEXT, own.length - ANSWER),
            length=ANSWER,
        )

    def measure(pruned: Any) -> dict[str, float]:
        quality = evaluate.quality(pruned, judged, tokenizer, cfg.batch)
        found = {
            **{"nll": quality.nll, "bits_per_byte": quality.bits_per_byte},
            "accuracy": next_tokens(pruned, judged, cfg.batch),
        }
        if items is not None:
            found["choices"] = float(evaluate.answered(pruned, items, tokenizer).right.mean())
        return found

    def loss(h: Tensor, batch: Batch, i: int) -> Tensor:
        logits = model.lm_head(model.model.norm(h))[:, :-1]
        flat = F.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="sum")
        return flat / logits.shape[1]

    return Work(arch, batches, held_out, measure, loss, tokenizer)


def work_of(cfg: Config, device: torch.device) -> Work:
    """What a run works on.

    Raises:
        UserError: if a model or data are not there.
    """
    data = TASKS[cfg.task].data
    if data == "code":
        return encoder_work(cfg, device)
    if data == "decoder":
        return decoder_work(cfg, device)
    from papers.liar import published

    return published.work_of(cfg, device)


__all__ = [
    "Probe",
    "Work",
    "batched",
    "decoder_work",
    "encoder_work",
    "fresh_decoder",
    "learnt_probe",
    "load_decoder",
    "retrieval",
    "work_of",
]
