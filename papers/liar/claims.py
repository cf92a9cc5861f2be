"""The claims of LIAR as functions of the rows of eval.py and of the method that is judged."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatch

import numpy as np

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
from common.stats import mean_ci
from papers.liar.methods import METHODS

ENCODER, DECODER, LARGE = "minilm", "llama", "llama-7b"
HALF, HEADS, FFN = "flap-all-50", "flap-heads-50", "flap-ffn-50"
CRITERIA = ("magnitude-all-50", "wanda-all-50", "flap-all-50", "random-all-50")
SIZES = ("flap-all-25", "flap-all-50", "flap-all-75")
RIVALS = ("none", "mask", "bias")
RETAINED = 0.98  # C1
MOST = 0.9  # C4: share of (module, seed)
ENOUGH = 4096  # C4: calibration tokens
MINUTES = 3.0  # C6
VARIED = dict.fromkeys(("target", "ridge", "bias", "texts"))  # no setting of the run was changed


def of(rows: Rows, metric: str, method: str, setting: str, task: str = ENCODER) -> Rows:
    """One number per seed, where nothing was varied."""
    return rows.of(task=task, metric=metric, method=method, setting=setting, **VARIED)


def undamaged(rows: Rows, metric: str, setting: str, task: str = ENCODER, sign: int = 1) -> str:
    """The assay: "" where pruning alone costs something, else why nothing can be judged.

    ``metric`` is over the unpruned model's, or (sign -1) a difference of which more is worse.
    """
    left = of(rows, metric, "none", setting, task)
    ci, whole = left.ci(), 1.0 if sign > 0 else 0.0
    if sign * (ci.high if sign > 0 else ci.low) < sign * whole:
        return ""
    return f"pruning alone costs nothing in {setting}: {ci}"


# -- retention -------------------------------------------------------------------------------------


def reaches(rows: Rows, method: str, task: str) -> str:
    """The largest share that can go with the retention in reach, of those that were run."""
    there = []
    for setting in SIZES:
        found = of(rows, "kept_accuracy", method, setting, task)
        if len(found) > 1 and found.ci().value >= RETAINED:
            there.append(setting.rsplit("-", 1)[1])
    return f"{there[-1]} %" if there else "none"


def retains(rows: Rows, method: str) -> Judgement:
    """C1: accuracy of the frozen probe over the unpruned encoder's, half of heads and neurons."""
    if why := undamaged(rows, "kept_accuracy", HALF):
        return Judgement(INCONCLUSIVE, why)
    ours = of(rows, "kept_accuracy", method, HALF).ci()
    mrr = of(rows, "kept_mrr", method, HALF).ci()
    bare = of(rows, "kept_accuracy", "none", HALF).value()
    text = f"{ours} (without reconstruction {bare:.2f}); search {mrr.value:.2f}"
    most = reaches(rows, method, ENCODER)
    found = by_interval(ours, RETAINED, ours=text, bare=bare, mrr=mrr.value, most=most)
    return Judgement(
        found.verdict, text, found.evidence, f"{text}; at {RETAINED:g} of means: {most}"
    )


def retains_published(rows: Rows, method: str) -> Judgement:
    """C1p: the same for BERT-base on its tasks: mean over tasks, interval over tasks and seeds."""
    kept: list[float] = []
    for task in rows.of(metric="kept_accuracy").unique("task"):
        if fnmatch(task, "glue-*"):
            kept += list(of(rows, "kept_accuracy", method, HALF, task).values(least=1))
    if len(kept) < 2:
        raise NoResults(f"{len(kept)} runs of {method} on GLUE")
    return by_interval(mean_ci(kept), RETAINED)


# -- against other reconstructions -----------------------------------------------------------------


def better(setting: str, rival: str) -> Judge:
    """Mean reciprocal rank of the method less a rival's."""

    def judge(rows: Rows, method: str) -> Judgement:
        ours, theirs = (of(rows, "mrr", name, setting) for name in (method, rival))
        return by_interval(ours.minus(theirs))

    return judge


def beats(settings: tuple[str, ...]) -> Judge:
    """Every rival in every setting, where pruning alone costs something."""

    def judge(rows: Rows, method: str) -> Judgement:
        why = [undamaged(rows, "kept_mrr", setting) for setting in settings]
        if any(why):
            return Judgement(INCONCLUSIVE, "; ".join(filter(None, why)))
        rivals = [rival for rival in RIVALS if rival != method]
        parts = {
            f"{setting} − {METHODS.label(rival)}": better(setting, rival)(rows, method)
            for setting in settings
            for rival in rivals
        }
        return all_of(parts, f"{len(parts)} differences of MRR")

    return judge


def errs_less(rows: Rows, method: str) -> Judgement:
    """C4: share of (module, seed) in which a module's held-out error is below each rival's."""
    tokens = of(rows, "tokens", method, HALF).value()
    if tokens < ENOUGH:
        return Judgement(INCONCLUSIVE, f"{tokens:.0f} calibration tokens, {ENOUGH} are needed")
    parts = {}
    for setting in ("flap-all-50", "magnitude-all-50"):
        modules = of(rows, "alone", method, setting).unique("module")
        for rival in (r for r in ("bias", "mask") if r != method):
            less: list[float] = []
            for module in modules:
                ours, theirs = (
                    of(rows, "alone", name, setting).of(module=module) for name in (method, rival)
                )
                less += [float(a < b) for a, b in zip(*ours.paired(theirs), strict=True)]
            if not less:
                raise NoResults(f"errors of modules of {method} and {rival} in {setting}")
            share = float(np.mean(less))
            label = f"{setting} against {METHODS.label(rival)}"
            parts[label] = compare(share, MOST, ours=f"{share:.0%} of {len(less)}")
    return all_of(parts)


# -- decoders, time --------------------------------------------------------------------------------


def decodes(task: str, setting: str) -> Judge:
    """C5: log-perplexity less bias compensation's and less none's; theirs, for the record."""

    def judge(rows: Rows, method: str) -> Judgement:
        if why := undamaged(rows, "lost_nll", setting, task, sign=-1):
            return Judgement(INCONCLUSIVE, why)
        ours, bias, bare = (of(rows, "nll", n, setting, task) for n in (method, "bias", "none"))
        of_two = {"less than bias compensation's": bias, "less than none's": bare}
        found = all_of({n: by_interval(ours.minus(v), above=False) for n, v in of_two.items()})
        return replace(found, details=f"{found.details}; bias − none: {bias.minus(bare)}")

    return judge


def quick(rows: Rows, method: str) -> Judgement:
    """C6: minutes of the slowest reconstruction, and that no gradient was taken."""
    minutes = float(of(rows, "seconds", method, HALF).values(least=1).max()) / 60
    inference = of(rows, "inference", method, HALF).value()
    return all_of(
        {
            "minutes": compare(minutes, MINUTES, above=False, ours=f"{minutes:.2f} at most"),
            "in inference mode": compare(inference, 1.0, ours=f"{inference:.0%} of runs"),
        }
    )


CLAIMS = [
    Claim(
        "C1",
        "98 % of the accuracy is kept with half of the heads and neurons removed "
        "(MiniLM, frozen probe, FLAP's criterion)",
        *("Abstract", "98 % (BERT-base)", retains),
        method="liar",
        tasks=(ENCODER,),
        headline=True,
    ),
    Claim(
        "C1p",
        "98 % of the accuracy is kept with half of the heads and neurons removed "
        "(BERT-base, GLUE, FLAP's criterion)",
        *("Abstract", "98 %", retains_published),
        method="liar",
        tasks=("glue-*",),
        only=("paper",),
    ),
    Claim(
        "C2",
        "Any criterion: higher MRR than without reconstruction, mask tuning and bias compensation "
        "(magnitude, Wanda, FLAP, random; half removed)",
        *("Abstract; reconstruction methods", "best", beats(CRITERIA)),
        method="liar",
        tasks=(ENCODER,),
        against=RIVALS,
    ),
    Claim(
        "C3",
        "Any module: the same with only heads and with only neurons removed (FLAP's criterion)",
        *("Abstract; heads and FFN", "best", beats((HEADS, FFN))),
        method="liar",
        tasks=(ENCODER,),
        against=RIVALS,
    ),
    Claim(
        "C4",
        "Less output error on unseen texts than bias compensation and mask tuning in 90 % of "
        "modules, each pruned alone",
        *("Method, reconstruction error", "minimised", errs_less),
        method="liar",
        tasks=(ENCODER,),
        against=("bias", "mask"),
    ),
    Claim(
        "C5",
        "Decoder: lower log-perplexity than bias compensation and than none "
        "(half of the neurons, biases added)",
        *("Abstract; WikiText", "best", decodes(DECODER, FFN)),
        method="liar",
        tasks=(DECODER,),
        against=("bias", "none"),
    ),
    Claim(
        "C6",
        "Reconstructing the encoder takes under 3 minutes on one core, without gradients",
        *("Abstract", "a few minutes (LLaMA)", quick),
        method="liar",
        tasks=(ENCODER,),
        specific=False,
        shared="every closed form of the same moments is as quick",
    ),
    Claim(
        "C7",
        "LLaMA-7B: lower log-perplexity than bias compensation and than none (half removed)",
        *("Abstract; WikiText", "best", decodes(LARGE, HALF)),
        method="liar",
        tasks=(LARGE,),
        against=("bias", "none"),
        only=("paper",),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
