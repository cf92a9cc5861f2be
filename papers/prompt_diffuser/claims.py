"""The claims of Prompt Diffuser as functions of the rows of eval.py and of the method judged.

A cell is a seed (of a policy) and a test task; differences are paired by cell. A *score* is a
return, 0 for random actions and 1 for an expert. All is judged only where the policy heeds its
prompt: an expert's prompt of the right task against one of the least alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from common.claims import (
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
from common.stats import Interval, mean_ci, paired_diff
from papers.prompt_diffuser.methods import METHODS

SWEPT = ("lr", "lam", "steps")  # labels of a sweep's rows, which no claim reads
PLAIN = dict.fromkeys(SWEPT)
OURS, RAW, RIVAL = "prompt_diffuser", "prompt_dt", "prompt_tuning_dt"
LOSSES = ("dm_only", "dt_only", "sum")
PUBLISHED = ("cheetah-dir", "cheetah-vel", "ant-dir", "reach-500")
GATE = ("right_prompt", "wrong_prompt")
MARGIN = 0.05  # of the score that "not worse" may lack
LOSS = 0.15  # of the score that a worse pool may cost
USEFUL = 0.5  # score on the random pool below which having lost nothing says nothing
CLOSE = 0.9  # share of full-data fine-tuning's score
SHARE = 0.02  # tuned parameters over the policy's
ALL = ("point", "reach", "velocity", *PUBLISHED)
OfFamily = Callable[[Rows, str, str], Judgement]  # of rows, a family and a method


def scores(rows: Rows, task: str, method: str) -> dict[tuple[str, int], float]:
    """Scores of a method by cell (test task, seed)."""
    own = rows.of(**PLAIN, task=task, metric="task_score", method=method)
    if not own:
        return {}
    frame = own.frame
    columns = (frame[name].tolist() for name in ("subtask", "seed", "value"))
    return {(s, k): v for s, k, v in zip(*columns, strict=True)}


def shared(*scored: dict[tuple[str, int], float]) -> list[np.ndarray]:
    """The values of each on the cells that all have, in their order.

    Raises:
        NoResults: if there are fewer than two.
    """
    both = sorted(set.intersection(*map(set, scored)))
    if len(both) < 2:
        raise NoResults("cells (test task, seed) that all compared methods share")
    return [np.array([of[cell] for cell in both]) for of in scored]


def lead(rows: Rows, task: str, one: str, other: str) -> Interval:
    """Difference of scores over cells."""
    ours, theirs = shared(scores(rows, task, one), scores(rows, task, other))
    return paired_diff(ours, theirs)


def beside(rows: Rows, task: str, method: str, others: tuple[str, ...]) -> str:
    """Differences to others, which decide nothing; empty for those that were not run."""
    there = [o for o in others if o != method and scores(rows, task, o)]
    found = [f"{METHODS.label(o)} {lead(rows, task, method, o)}" for o in there]
    return f"less {', '.join(found)}" if found else ""


def heeds(rows: Rows, task: str) -> Judgement | None:
    """None where the policy heeds its prompt; else that nothing can be said there."""
    ci = lead(rows, task, *GATE)
    if ci.low > 0:
        return None
    return Judgement(INCONCLUSIVE, f"the policy ignores its prompt: {ci}", {"heeds": ci.value})


def families(
    rows: Rows, pool: str, wanted: tuple[str, ...], needed: tuple[str, ...] = (OURS,)
) -> list[str]:
    """Those of the families in which the needed methods were run with this pool.

    Raises:
        NoResults: if there is none.
    """
    found = [n for n in wanted if all(scores(rows, f"{n}-{pool}", m) for m in needed)]
    if not found:
        raise NoResults(f"tasks with the {pool} pool")
    return found


def in_each(pool: str, judge: OfFamily, *names: str, needed: tuple[str, ...] = (OURS,)) -> Judge:
    """A judge of one family, required of every one in which the needed methods were run.

    Args:
        pool: of the tasks.
        judge: of rows, a family and a method.
        names: the families; default: all that are not out of distribution.
        needed: methods that the claim cannot do without.
    """

    def judged(rows: Rows, method: str) -> Judgement:
        parts = {
            name: heeds(rows, f"{name}-{pool}") or judge(rows, name, method)
            for name in families(rows, pool, names or ALL, needed)
        }
        return all_of(parts) if len(parts) > 1 else next(iter(parts.values()))

    return judged


def over(
    pool: str, rivals: tuple[str, ...], others: tuple[str, ...] = (), margin: float | None = None
) -> OfFamily:
    """Scores above those of all rivals; with a margin: not below them by more.

    Args:
        pool: of the family's task.
        rivals: that decide.
        others: differences to these are printed beside.
        margin: of "not worse".
    """

    def judge(rows: Rows, name: str, method: str) -> Judgement:
        task, parts = f"{name}-{pool}", {}
        for rival in rivals:
            ci = lead(rows, task, method, rival)
            found = by_interval(ci) if margin is None else not_worse(ci, margin)
            parts[METHODS.label(rival)] = found
        return all_of(parts, beside(rows, task, method, others), spell_out=3)

    return judge


def zero_shot(rows: Rows, name: str, method: str) -> Judgement:
    """Above a prompt of a training task drawn at random; of methods that see no demonstration.

    Raises:
        NoResults: for the others.
    """
    if METHODS[method].prompts in ("pool", "right"):
        raise NoResults(f"{METHODS.label(method)} is given demonstrations of the task")
    return by_interval(lead(rows, f"{name}-expert", method, "random_prompt"))


def insensitive(rows: Rows, name: str, method: str) -> Judgement:
    """A random pool costs little, less than Prompt-Tuning DT, and leaves a useful score."""
    pools = [f"{name}-expert", f"{name}-random"]
    found = [scores(rows, pool, of) for of in (method, RIVAL) for pool in pools]
    best, worst, rival_best, rival_worst = shared(*found)
    loss, rival = best - worst, rival_best - rival_worst
    return all_of(
        {
            "loss": by_interval(mean_ci(loss), LOSS, above=False),
            f"{METHODS.label(RIVAL)}'s less it": by_interval(paired_diff(rival, loss)),
            "score": by_interval(mean_ci(worst), USEFUL),
        },
        spell_out=3,
    )


def close_to_full(rows: Rows, name: str, method: str) -> Judgement:
    """Above nine tenths of fine-tuning on fifty episodes; the raw prompt has to fail that."""

    def judged(of: str) -> Judgement:
        ours, full = shared(*(scores(rows, f"{name}-random", m) for m in (of, "full")))
        ci = paired_diff(ours, CLOSE * full)
        return by_interval(ci, ours=f"{ci} ({ours.mean():.2f} against {full.mean():.2f})")

    found, raw = judged(method), judged(RAW)
    if raw.verdict == REPRODUCED:
        return Judgement(INCONCLUSIVE, f"{found.ours}; the raw prompt passes, too: {raw.ours}")
    return found


def few_parameters(rows: Rows, name: str, method: str) -> Judgement:
    """Tuned parameters over the policy's.

    Raises:
        NoResults: for a method that tunes nothing.
    """
    own = rows.of(task=f"{name}-expert", method=method)
    tuned, of = (own.of(metric=m).value() for m in ("parameters", "policy_parameters"))
    if not tuned:
        raise NoResults(f"{METHODS.label(method)} tunes nothing")
    return compare(tuned / of, SHARE, above=False, ours=f"{tuned:,.0f} of {of:,.0f}")


def claim(name: str, statement: str, source: str, paper: str, judge: Judge, **more: Any) -> Claim:
    """A claim of Prompt Diffuser unless told otherwise."""
    more = {"method": OURS, "specific": "shared" not in more, **more}
    return Claim(f"pd.{name}", statement, source, paper, judge, **more)


TABLE = "Main table (as its reviews quote it)"

CLAIMS = [
    claim(
        "few_shot",
        "Few-shot, pool of random actions: Prompt Diffuser's score is above the raw prompt's and "
        "Prompt-Tuning DT's in every family",
        *(TABLE, "mean 474.4 against 450.3 (Prompt-Tuning DT), expert prompts"),
        in_each("random", over("random", (RAW, RIVAL), ("regression", "dt_only", "gradient"))),
        tasks=("*-random",),
        against=(RAW, RIVAL, *GATE),
        headline=True,
    ),
    claim(
        "few_shot_expert",
        f"Few-shot, an expert's pool: at most {MARGIN} below the raw prompt's score and "
        "Prompt-Tuning DT's in every family",
        *(TABLE, "three of four margins within one standard deviation"),
        in_each("expert", over("expert", (RAW, RIVAL), margin=MARGIN)),
        tasks=("*-expert",),
        against=(RAW, RIVAL, *GATE),
        shared="whatever leaves a good prompt as good as it was meets it",
    ),
    claim(
        "insensitive",
        f"Insensitive to the pool: expert less random below {LOSS} and below Prompt-Tuning DT's, "
        f"score above {USEFUL} (ours)",
        "Table on prompt quality",
        "Cheetah-vel: about -33.5 for expert, medium, random; Prompt-Tuning DT down to -90.4",
        in_each("random", insensitive),
        tasks=("*-random", "*-expert"),
        against=(RIVAL, *GATE),
    ),
    claim(
        "projection",
        "Projection outperforms diffusion loss alone, guidance alone and their plain sum: score, "
        "random pool, every family",
        *("Ablation figure", "best of the four on all four families"),
        in_each("random", over("random", LOSSES), needed=LOSSES),
        tasks=("*-random",),
        against=(*LOSSES, *GATE),
    ),
    claim(
        "outside",
        f"Out of distribution, few-shot: at most {MARGIN} below the right prompt's score, "
        "directions of the left-out quadrant, expert's pool",
        *("Table on Ant-dir", "546.8 against 540.8"),
        in_each("expert", over("expert", (RAW,), ("random_prompt", "zero_shot"), MARGIN), "ood"),
        tasks=("ood-expert",),
        against=(RAW, *GATE),
        shared="the raw prompt itself does as well",
    ),
    claim(
        "zero_shot",
        "Zero-shot, without a demonstration: above the score of a training task's prompt",
        *("Table on Ant-dir", "329.2 against 52.7; how is not said"),
        in_each("expert", zero_shot, "ant-dir"),
        method="zero_shot",
        tasks=("ant-dir-expert",),
        against=("random_prompt", *GATE),
        only=("paper",),
    ),
    claim(
        "close_to_full",
        f"Close to full fine-tuning: score above {CLOSE} times Prompt-DT-FT's on 50 episodes, "
        "random pool; the raw prompt's is not",
        *(TABLE, "474.4 against 496.6: 96 %"),
        in_each("random", close_to_full, needed=("full",)),
        tasks=("*-random",),
        against=("full", RAW, *GATE),
    ),
    claim(
        "parameters",
        f"Few parameters are tuned: below {SHARE:.0%} of the policy's",
        *("Text", "1.24 % (0.17 M)"),
        lambda rows, method: all_of(
            {n: few_parameters(rows, n, method) for n in families(rows, "expert", PUBLISHED)}
        ),
        tasks=("cheetah-*-expert",),
        only=("paper",),
        shared="prompts and adapters have fewer still",
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
