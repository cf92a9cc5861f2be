"""The claims of QCSBM as functions of the rows of eval.py and of the model that is judged."""

from __future__ import annotations

import numpy as np

from common.claims import (
    CONTRADICTED,
    INCONCLUSIVE,
    REPRODUCED,
    Claim,
    Judge,
    Judgement,
    NoResults,
    Rows,
    all_of,
    by_interval,
    claims_cli,
    compare,
    not_worse,
)
from common.stats import mean_ci, paired_diff
from papers.qcsgm.methods import METHODS
from papers.qcsgm.rotation import EPSILONS
from papers.qcsgm.task import TOY

LAM = {**dict.fromkeys(TOY, 0.1), "digits": 1e-2, "cifar10": 1e-4}  # of the judged QC models
MARGIN_NATS, MARGIN_BITS = 0.03, 0.02  # Q4, fixed before the runs
SETS = {"8gaussians": "8-Gaussians", "spirals": "spirals", "checkerboard": "checkerboard"}
SMALL, LARGE = 0.1, 0.5  # t below and above, Q6
DIGITS = ("digits",)


def judged(rows: Rows, method: str, task: str, metric: str) -> Rows:
    """A metric of a model, at the judged weight of the regulariser and the task's rate."""
    lam = LAM.get(task) if METHODS[method].regulariser else 0.0
    return rows.of(method=method, task=task, metric=metric, lam=lam, lr=None)


def against_u(
    rows: Rows, method: str, tasks: tuple[str, ...], metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """U's values and the method's, paired by seed, over sets and seeds."""
    pairs = [
        judged(rows, "u", task, metric).paired(judged(rows, method, task, metric)) for task in tasks
    ]
    u, ours = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return u, ours


def early_and_late(rows: Rows, method: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Means over the noise levels with t < 0.1 and with t > 0.5 on digits, per seed."""
    t, found = judged(rows, method, "digits", metric).curve(least=2)
    return found[:, t < SMALL].mean(axis=1), found[:, t > LARGE].mean(axis=1)


def slower(rows: Rows, method: str) -> Judgement:
    """Q1: steps to the mode, the worst seed of each comparison; nothing else is random."""
    ours, radial = (
        {
            e: rows.of(method=m, task="gaussian", metric="steps", epsilon=e).values(least=1)
            for e in EPSILONS
        }
        for m in (method, "radial")
    )
    excess = min(float((ours[e] - radial[e]).min()) for e in EPSILONS)
    parts = {"every ε": compare(excess, 0, ours=f"rotational − radial ≥ {excess:.0f}")}
    for e in (1.5e-3, 1.75e-3):
        ratio = float((ours[e] / radial[e]).min())
        parts[f"ε = {e:g}"] = compare(ratio, 10, ours=f"{ratio:.1f} times")
    return all_of(parts, spell_out=3)


def lowers_asymmetry(tasks: tuple[str, ...]) -> Judge:
    """Q2: relative reductions 1 - method/U of Asym and NAsym, over sets and seeds."""

    def judge(rows: Rows, method: str) -> Judgement:
        parts = {}
        for name, metric in (("Asym", "asym"), ("NAsym", "nasym")):
            u, ours = against_u(rows, method, tasks, metric)
            parts[name] = by_interval(mean_ci(1 - ours / u))
        return all_of(parts)

    return judge


def fits_worse(metric: str) -> Judge:
    """Q3: method - U > 0 on at least two of the three 2-D sets."""

    def judge(rows: Rows, method: str) -> Judgement:
        parts = {}
        for task, name in SETS.items():
            u, ours = against_u(rows, method, (task,), metric)
            parts[name] = by_interval(paired_diff(ours, u))
        verdicts = [part.verdict for part in parts.values()]
        decided = [v for v in (REPRODUCED, CONTRADICTED) if verdicts.count(v) >= 2]
        text = "; ".join(f"{name} {part.ours}" for name, part in parts.items())
        evidence = {name: {"verdict": p.verdict, **p.evidence} for name, p in parts.items()}
        return Judgement(decided[0] if decided else INCONCLUSIVE, text, evidence)

    return judge


def likelihood(tasks: tuple[str, ...], metric: str, margin: float | None) -> Judge:
    """Q4: U - method in NLL, over sets and seeds; not below -margin, or (None) above 0."""

    def judge(rows: Rows, method: str) -> Judgement:
        difference = paired_diff(*against_u(rows, method, tasks, metric))
        return by_interval(difference) if margin is None else not_worse(difference, margin)

    return judge


def symmetric_without_tying(rows: Rows, method: str) -> Judgement:
    """Q5: share of the seeds whose field became symmetric while R stayed away from W."""
    ends = {}
    for metric in ("loss", "gap", "untied", "nasym"):
        _, found = rows.of(method=method, task="autoencoder", metric=metric).curve()
        ends[metric] = (found[:, 0], found[:, -1])
    loss, gap = (ends[m][0] / np.maximum(ends[m][1], 1e-300) for m in ("loss", "gap"))
    untied = ends["untied"][1]
    passed = (loss >= 100) & (gap >= 10) & (untied > 0.3)
    text = (
        f"{passed.sum()} of {len(passed)} seeds: L_QC down {loss.min():.0f}× or more, "
        f"gap {gap.min():.0f}× or more, ‖W − R‖ ≥ {untied.min():.2f}"
    )
    shrink = f"NAsym {ends['nasym'][0].mean():.2g} → {ends['nasym'][1].mean():.2g}"
    return compare(float(passed.mean()), 0.8, ours=text, passed=int(passed.sum()), nasym=shrink)


def concentrated(metric: str) -> Judge:
    """Q6: log10 of the asymmetry at t < 0.1 over that at t > 0.5, digits."""

    def judge(rows: Rows, method: str) -> Judgement:
        early, late = early_and_late(rows, method, metric)
        if not (early > 0).all() or not (late > 0).all():
            raise NoResults(f"{METHODS.label(method)} has no asymmetry")
        return by_interval(mean_ci(np.log10(early / late)))

    return judge


def lower_at_small_t(rows: Rows, method: str) -> Judgement:
    """Q6c: 1 - method/U of Asym at t < 0.1, digits."""
    early = (early_and_late(rows, m, "asym_at")[0] for m in (method, "u"))
    ours, u = early
    return by_interval(mean_ci(1 - ours / u))


def improves_cifar(rows: Rows, method: str) -> Judgement:
    """Q7: U - method in bits per dimension, CIFAR-10, fine-tuned from the same weights."""
    return by_interval(paired_diff(*against_u(rows, method, ("cifar10",), "bits")))


_BY_NATURE = "C is symmetric by construction, whatever it has learnt"

CLAIMS = [
    Claim(
        "Q1",
        "A rotational error slows sampling more than a radial one of equal size: never fewer steps,"
        " ten times as many at ε=1.5e-3 and 1.75e-3",
        "Example 1",
        "57 against 4, 121 against 5",
        slower,
        "rotational",
        ("gaussian",),
        against=("radial",),
    ),
    Claim(
        "Q2-2D",
        "The regulariser lowers Asym and NAsym: 1 − QC/U > 0 (λ = 0.1, mean of three 2-D sets, 3"
        " seeds)",
        "Table 1",
        "0.10 to 0.57 and 0.03 to 0.32",
        lowers_asymmetry(TOY),
        "qc",
        TOY,
        against=("u",),
        specific=False,
        shared=_BY_NATURE,
        headline=True,
    ),
    Claim(
        "Q2-digits",
        "The regulariser lowers Asym and NAsym: 1 − QC/U > 0 (digits, λ = 0.01, estimate, 3 seeds)",
        "Table 2",
        "0.81 and 0.56 (CIFAR-10)",
        lowers_asymmetry(DIGITS),
        "qc_est",
        DIGITS,
        against=("u",),
        specific=False,
        shared=_BY_NATURE,
    ),
    Claim(
        "Q3-NLL",
        "Constrained models fit worse: C − U > 0 in NLL under the prior N(0, 3²), on two of three"
        " 2-D sets (3 seeds)",
        "Table 1",
        "0.22, 0.50, 0.10 nats",
        fits_worse("nll"),
        "c",
        TOY,
        against=("u",),
    ),
    Claim(
        "Q3-error",
        "Constrained models fit worse: C − U > 0 in corrected score error, on two of three 2-D sets"
        " (3 seeds)",
        "Table 1",
        "0.02, 0.09, 0.09",
        fits_worse("score_error"),
        "c",
        TOY,
        against=("u",),
    ),
    *(
        Claim(
            f"Q4{part}-{where}",
            what + f" ({setting}, 3 seeds)",
            source,
            paper,
            likelihood(tasks, metric, margin if part == "a" else None),
            method,
            tasks,
            against=("u",),
        )
        for where, tasks, metric, margin, method, setting, source, paper in (
            ("2D", TOY, "nll", MARGIN_NATS, "qc", "λ = 0.1, mean of 2-D sets", "Table 1", "0.03"),
            ("digits", DIGITS, "bits", MARGIN_BITS, "qc_est", "digits", "Table 2", "0.08"),
        )
        for part, what in (
            ("a", f"QC costs no likelihood: U − QC in NLL above −{margin:g}"),
            ("b", "QC gains likelihood: U − QC > 0 in NLL"),
        )
    ),
    Claim(
        "Q5",
        "An autoencoder becomes conservative untied: L_QC down 100 times, ‖WRᵀ − RWᵀ‖ 10 times,"
        " ‖W − R‖ > 0.3, on 4 of 5 seeds",
        "Appendix",
        "both near 0, ‖W − R‖ 1.04",
        symmetric_without_tying,
        "qc",
        ("autoencoder",),
    ),
    *(
        Claim(
            f"Q6{part}",
            f"U's {name} is concentrated at small t: log10 of t < 0.1 over t > 0.5 is positive"
            " (digits, 3 seeds)",
            "Figure of Asym over t",
            "no number",
            concentrated(metric),
            "u",
            DIGITS,
            specific=False,
            shared="it is said of score models as such",
        )
        for part, name, metric in (("a", "Asym", "asym_at"), ("b", "NAsym", "nasym_at"))
    ),
    Claim(
        "Q6c",
        "QC's Asym is lower than U's at small t: 1 − QC/U > 0 for t < 0.1 (digits, 3 seeds)",
        "Figure of Asym over t",
        "no number",
        lower_at_small_t,
        "qc_est",
        DIGITS,
        against=("u",),
        specific=False,
        shared=_BY_NATURE,
    ),
    Claim(
        "Q7",
        "QC fine-tuning improves the likelihood of NCSN++ on CIFAR-10 (K = 16, batch 8)",
        "Table 2",
        "3.38 against 3.46 bits/dim",
        improves_cifar,
        "qc_est",
        ("cifar10",),
        against=("u",),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
