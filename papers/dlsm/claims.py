"""The claims of DLSM as functions of the rows of eval.py and of the method that is judged."""

from __future__ import annotations

from common.claims import Claim, Judge, Judgement, Rows, all_of, by_interval, claims_cli
from common.stats import Interval, paired_diff
from papers.dlsm.methods import METHODS

MOONS, DIGITS, CIFAR10 = "moons", "digits", "cifar10"
SETTINGS = ("lr", "weight", "lambda_ce")  # labels of rows whose losses are not the task's
MEAN = -1  # label of a mean of the classes


def of(rows: Rows, method: str, task: str, metric: str) -> Rows:
    """A metric of a method, mean of the classes, with the losses' settings of the task."""
    return at_the_tasks_settings(rows).of(method=method, task=task, metric=metric)


def at_the_tasks_settings(rows: Rows) -> Rows:
    """Rows without those of single classes, and of losses with other settings than the task's."""
    frame = rows.of(**dict.fromkeys(SETTINGS)).frame
    if "label" in frame:
        frame = frame[frame["label"].isna() | (frame["label"] == MEAN)]
    return Rows(frame)


def both(one: Rows, other: Rows, result: Interval, sign: str, digits: int = 3) -> str:
    """Two means and what follows from them."""
    return f"{one.value():.{digits}f} {sign} {other.value():.{digits}f} = {result}"


def less_mismatch(metric: str) -> Judge:
    """D1, D2: the error of base less the method's above 0, and their ratio at least 1.5."""

    def judge(rows: Rows, method: str) -> Judgement:
        base, ours = (of(rows, m, MOONS, metric) for m in ("base", method))
        difference, ratio = base.minus(ours), base.over(ours)
        return all_of(
            {
                "base − it": by_interval(difference, ours=both(base, ours, difference, "−")),
                "ratio ≥ 1.5": by_interval(ratio, 1.5),
            }
        )

    return judge


def scaling_worsens(rows: Rows, method: str) -> Judgement:
    """D3: D_L at least 5 times that of the same classifier unscaled."""
    scaled, base = (of(rows, m, MOONS, "d_l") for m in (method, "base"))
    ratio = scaled.over(base)
    return by_interval(ratio, 5.0, ours=both(scaled, base, ratio, "/"))


def close_to_posterior(rows: Rows, method: str) -> Judgement:
    """D4: D_P at most twice that of score models trained per class."""
    ours, theirs = (of(rows, m, MOONS, "d_p") for m in (method, "posterior"))
    ratio = ours.over(theirs)
    return by_interval(ratio, 2.0, above=False, ours=both(ours, theirs, ratio, "/"))


def error_grows(rows: Rows, method: str) -> Judgement:
    """D5: D_L is larger after the last step than before the first, cross-entropy smaller."""
    parts = {}
    for name, metric, sign in (("D_L rises", "d_l", 1), ("cross-entropy falls", "fresh_ce", -1)):
        _, found = of(rows, method, MOONS, f"{metric}_curve").curve(least=2)
        first, last = found[:, 0], found[:, -1]
        change = paired_diff(sign * last, sign * first)
        text = f"{first.mean():.3f} to {last.mean():.3f}, by {change}"
        parts[name] = by_interval(change, ours=text)
    return all_of(parts)


def lower_cross_entropy(rows: Rows, method: str) -> Judgement:
    """D6: cross-entropy at the end, DLSM alone less the method."""
    alone, ours = (of(rows, m, MOONS, "fresh_ce") for m in ("dlsm", method))
    difference = alone.minus(ours)
    return by_interval(difference, ours=both(alone, ours, difference, "−"))


def more(task: str, metric: str, rival: str) -> Judge:
    """D7: the method less its rival in a metric of images, above 0."""

    def judge(rows: Rows, method: str) -> Judgement:
        ours, theirs = (of(rows, m, task, metric) for m in (method, rival))
        difference = ours.minus(theirs)
        return by_interval(difference, ours=both(ours, theirs, difference, "−"))

    return judge


def published_numbers(rows: Rows, method: str) -> Judgement:
    """D8: FID and CAS within 10 % of the published ones."""
    parts = {}
    for metric, name, published in (("fid", "FID", 2.25), ("cas_cnn", "CAS", 0.58)):
        ci = of(rows, method, CIFAR10, metric).ci()
        parts[f"{name} ≥ −10 %"] = by_interval(ci, 0.9 * published)
        parts[f"{name} ≤ +10 %"] = by_interval(ci, 1.1 * published, above=False)
    return all_of(parts)


CLAIMS = [
    Claim(
        "D1",
        "Cross-entropy classifiers have wrong likelihood scores; with DLSM the error D_L falls by "
        "1.5 times at least (moons, σ = 7.5, 6,000 steps, 5 seeds)",
        "Table 1",
        "0.186 / 0.052 = 3.6",
        less_mismatch("d_l"),
        "total",
        (MOONS,),
        against=("base",),
        headline=True,
    ),
    Claim(
        "D2",
        "The posterior score follows: its error D_P falls by 1.5 times at least (moons, σ = 7.5, "
        "5 seeds)",
        "Table 1",
        "0.198 / 0.065 = 3.0",
        less_mismatch("d_p"),
        "total",
        (MOONS,),
        against=("base",),
        specific=False,
        shared="score models for each class are trained for just this score; D4 compares with them",
    ),
    Claim(
        "D3",
        "Scaling worsens the mismatch: D_L at α = 10 is at least 5 times the same classifier's at "
        "α = 1 (moons, 5 seeds)",
        "Table 1",
        "2.67 / 0.186 = 14",
        scaling_worsens,
        "scaling-10",
        (MOONS,),
        against=("base",),
        only=("default",),
    ),
    Claim(
        "D4",
        "CE + DLSM comes close to score models trained for each class: D_P at most twice theirs "
        "(moons, 5 seeds)",
        "Table 1",
        "0.065 / 0.062 = 1.06",
        close_to_posterior,
        "total",
        (MOONS,),
        against=("posterior",),
    ),
    Claim(
        "D5",
        "Cross-entropy alone ends with a larger D_L than it began with, while its own loss falls "
        "(moons, 6,000 steps, 5 seeds)",
        "training curves",
        "D_L 0.15 to 0.19",
        error_grows,
        "base",
        (MOONS,),
    ),
    Claim(
        "D6",
        "Adding cross-entropy to DLSM stabilises it: lower cross-entropy at the end than with DLSM "
        "alone (moons, 6,000 steps, 5 seeds)",
        "training curves",
        "0.135 against 0.4 to 0.5",
        lower_cross_entropy,
        "total",
        (MOONS,),
        against=("dlsm",),
        specific=False,
        shared="cross-entropy alone is trained for just this",
    ),
    *(
        Claim(
            f"D7{part}{suffix}",
            f"{what} ({setting})",
            "Tables 2 and 3, on CIFAR",
            paper,
            more(task, metric, rival),
            "total",
            (task,),
            against=(rival,),
            only=only,
        )
        for task, suffix, setting, only in (
            (DIGITS, "", "digits, 5 seeds", ("default",)),
            (CIFAR10, "-CIFAR", "CIFAR-10, 3 classifiers, one score model", ("gpu", "paper")),
        )
        for part, what, paper, metric, rival in (
            ("a", "Images of CE + DLSM carry their class better: CAS above base's", "0.58 − 0.38")
            + ("cas_cnn", "base"),
            ("b", "They are more diverse than scaled ones: class-wise recall above that of α = 10")
            + ("0.61 − 0.42", "cw_recall", "scaling-10"),
        )
    ),
    Claim(
        "D8",
        "CIFAR-10: FID 2.25 and CAS 0.58, each within 10 % (3 classifiers on one score model)",
        "Table 2",
        "2.25; 0.58",
        published_numbers,
        "total",
        (CIFAR10,),
        only=("paper",),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
