"""The claims of the paper: fewer operations, and a loss that is as good.

Losses are nats per token on the validation text, with full attention, paired by seed (the same
text in the same order, the same first weights).
"""

from __future__ import annotations

from collections.abc import Callable

from common.claims import (
    INCONCLUSIVE,
    Claim,
    Judge,
    Judgement,
    NoResults,
    Rows,
    all_of,
    by_interval,
    claims_cli,
    compare,
)
from papers.mst.methods import METHODS

DECODERS = ("gpt2-tiny", "gpt2-mid", "gpt2-small")  # one of them at each scale
ENCODER, STUDY_T = "bert-tiny", 1000  # iterations of the study's comparisons
QUARTER, NEAR = 0.255, 0.01  # of the dense operations; counted less planned
NO_LOSS = 0.05  # nats that pass for "no loss"; ours, fixed before the runs
EQUAL, EQUAL_DENSE = 0.02, 0.04  # relative difference of operations that passes for equal


def decoders(rows: Rows) -> Rows:
    """The rows of the scale's decoder."""
    return rows.of(task=list(DECODERS))


def studied(rows: Rows) -> Rows:
    """The rows of the decoder in the study, of one length."""
    return rows.of(task=DECODERS[0], T=STUDY_T)


def encoders(rows: Rows) -> Rows:
    """The rows of the encoder in the study."""
    return rows.of(task=ENCODER, T=STUDY_T)


def loss(rows: Rows, method: str) -> Rows:
    """Final validation loss."""
    return rows.of(method=method, metric="nll")


def better(rows: Rows, method: str, rival: str, tolerance: float) -> Judgement:
    """Lower loss at equal cost; open where the costs differ."""
    diff = loss(rows, method).minus(loss(rows, rival))
    took = rows.of(metric="flops")
    ratio = took.of(method=method).value() / took.of(method=rival).value()
    if abs(ratio - 1) > tolerance:
        text = f"{ratio:.2f} times the operations of {METHODS.label(rival)}"
        return Judgement(INCONCLUSIVE, text, {"ratio": ratio})
    return by_interval(diff, above=False, flops=ratio)


def beats(*rivals: str, of: Callable[[Rows], Rows] = decoders, tolerance: float = EQUAL) -> Judge:
    """Lower loss than each of the rivals at equal cost."""

    def judged(rows: Rows, method: str) -> Judgement:
        own = of(rows)
        parts = {METHODS.label(r): better(own, method, r, tolerance) for r in rivals}
        return all_of(parts, spell_out=3)

    return judged


def a_quarter(rows: Rows, method: str) -> Judgement:
    """c1: the ratio at GPT-2 small's shape, and counted operations against planned ones."""
    own = decoders(rows).of(method=method)
    counted, planned = own.of(metric="body_ratio").paired(
        own.of(metric="body_ratio_planned"), least=1
    )
    off = float(abs(counted - planned).max())
    ratio = own.of(metric="small_ratio").value()
    text = f"{ratio:.4f} ({1 / ratio:.2f}x)"
    return all_of(
        {
            "GPT-2 small": compare(ratio, QUARTER, above=False, ours=text),
            "counted less planned": compare(off, NEAR, above=False, ours=f"{off:.1e}"),
        }
    )


def as_good_as_dense(rows: Rows, method: str) -> Judgement:
    """c5: loss less the dense model's, where sparsity costs something at all."""
    own = decoders(rows)
    dense = loss(own, "dense")
    diff = loss(own, method).minus(dense)
    cost = loss(own, "static").minus(dense)
    took = own.of(method=method, metric="flops_ratio").value()
    text = f"{diff} at {took:.2f} of its operations (static: {cost})"
    if cost.low <= NO_LOSS:
        return Judgement(INCONCLUSIVE, f"static sparsity costs {cost}: nothing to be made good")
    return by_interval(diff, NO_LOSS, above=False, ours=text, flops=took)


def claim(
    name: str, statement: str, source: str, judge: Judge, against: tuple[str, ...], **more: object
) -> Claim:
    """A claim of MST on the scale's decoder unless it says otherwise."""
    fields = {"paper": NUMBERLESS, "method": "mst", "tasks": ("gpt2-*",), "only": CLAIMED}
    fields |= {"specific": "shared" not in more, **more}
    return Claim(
        name, statement, source, judge=judge, against=against, **fields  # type: ignore[arg-type]
    )  # fmt: skip


NUMBERLESS = "better; no number found"
CLAIMED: tuple[str, ...] = ("default", "gpu", "paper")
CLAIMS = [
    claim(
        "mst-c1",
        "At most 25.5 % of the dense operations at GPT-2 small's shape; operations counted from "
        "the run's masks are the planned ones within .01",
        *("Abstract", a_quarter, ()),
        paper="4x fewer",
        shared="the sparse rivals are given MST's operations",
    ),
    claim(
        "mst-c2",
        "At equal operations MST's loss is below static sparse training's, random mask and "
        "lottery ticket (5 seeds; default: 25 tokens per weight)",
        *("Main comparison", beats("static", "lottery"), ("static", "lottery")),
    ),
    claim(
        "mst-c3",
        "At equal operations MST's loss is below that of dynamic sparse training at a constant "
        "density: RigL and SET (5 seeds)",
        *("Main comparison", beats("rigl", "set"), ("rigl", "set")),
    ),
    claim(
        "mst-c4",
        "At equal operations (4 %) MST's loss is below a narrower dense model's and below the "
        "dense model's with fewer iterations (5 seeds)",
        "Main comparison",
        beats("dense-small", "dense-short", tolerance=EQUAL_DENSE),
        ("dense-small", "dense-short"),
    ),
    claim(
        "mst-c5",
        "No loss of quality: MST's loss at most .05 nats above the dense model's of as many "
        "iterations (5 seeds)",
        *("Abstract", as_good_as_dense, ("dense", "static")),
        paper="no loss, 4x fewer operations",
        headline=True,
    ),
    claim(
        "mst-c6",
        "The restoration matters: at equal operations a lower loss than with warm-up and "
        "ultra-sparsification alone (5 seeds)",
        *("Ablations", beats("mst-no-restore"), ("mst-no-restore",)),
    ),
    claim(
        "mst-c7",
        "Sparsity variation matters: at equal operations a lower loss than mixed growing at a "
        "constant density with full attention (5 seeds)",
        *("Ablations", beats("mg"), ("mg",)),
    ),
    claim(
        "mst-c8",
        "Mixed growing beats growing by gradient alone and at random alone, at equal operations "
        "(1,000 iterations, 3 seeds)",
        "Ablations",
        beats("mst-gradient", "mst-random", of=studied),
        ("mst-gradient", "mst-random"),
        only=("study",),
    ),
    claim(
        "mst-c9",
        "Hybrid sparse attention pays: a lower loss than with full attention and the operations "
        "taken from the weights (1,000 iterations, 3 seeds)",
        *("Ablations", beats("mst-no-hsa", of=studied), ("mst-no-hsa",)),
        only=("study",),
    ),
    claim(
        "mst-c10",
        "On BERT's masked tokens too: at equal operations a lower loss than static sparse "
        "training and RigL (1,000 iterations, 3 seeds)",
        *("BERT", beats("static", "rigl", of=encoders), ("static", "rigl")),
        tasks=(ENCODER,),
        only=("study",),
    ),
]

__all__ = ["CLAIMS", "METHODS", "NoResults"]

if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
