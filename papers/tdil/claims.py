"""The claims of TDIL: what is said, and how rows of a method decide it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from common.claims import (
    CONTRADICTED,
    INCONCLUSIVE,
    Claim,
    Interval,
    Judge,
    Judgement,
    NoResults,
    Rows,
    all_of,
    by_interval,
    claims_cli,
)
from common.stats import diff, paired_diff
from papers.tdil.methods import METHODS

GRIDS = ("grid", "grid-paper")
B, C = "continuous", "hopper-200"
RIVALS = ("bc", "gail", "gail-bc")
NO_HARD_NEGATIVES = ("adroit-door",)  # simulators where the authors use none

Difference = Callable[[Rows, Rows], Interval]


def grid_of(rows: Rows) -> str:
    """The grid that was run, ours or with the authors' networks."""
    return next((task for task in GRIDS if rows.of(task=task)), GRIDS[0])


def simulators(rows: Rows, *without: str) -> list[str]:
    """The simulator tasks that were run.

    Raises:
        NoResults: if there is none.
    """
    there = rows.of(metric="relative_return").unique("task")
    found = [task for task in there if task not in without]
    if not found:
        raise NoResults("no simulator task")
    return found


def one_sided(task: str, judged: Judgement) -> Judgement:
    """On C, 0.4 % of the paper's steps, evidence may support a claim and not refute it."""
    if task == C and judged.verdict == CONTRADICTED:
        return replace(judged, verdict=INCONCLUSIVE, ours=f"{judged.ours} (C refutes nothing)")
    return judged


# -- judges -------------------------------------------------------------------------------------


def learns_reachability(rows: Rows, method: str) -> Judgement:
    """T1: D sees the walls, and orders all pairs of cells."""
    own = rows.of(task=grid_of(rows), method=method)
    gap = own.of(metric="d_open").minus(own.of(metric="d_walled"))
    area = own.of(metric="auc").ci()
    return all_of({"gap": by_interval(gap, 0.05), "AUC": by_interval(area, 0.95)})


def paid_share(rows: Rows, method: str) -> Rows:
    """Share of (cell, action) that a method's own reward pays."""
    own = rows.of(task=grid_of(rows), method=method)
    return own.of(metric="paid_share_tdil") or own.of(metric="paid_share_irl")


def denser_reward(rows: Rows, method: str) -> Judgement:
    """T2: twice the demonstration's own share, more than GAIL's, but not everything."""
    own, gail = paid_share(rows, method), paid_share(rows, "gail")
    share, more = own.ci(), own.minus(gail)
    parts = {
        "share": by_interval(share, 2 * 15 / 400, ours=f"{share} (exact 0.300)"),
        "at most ½": by_interval(share, 0.5, above=False, ours="yes" if share.high < 0.5 else "no"),
        "GAIL-style": by_interval(more, ours=f"{gail.value():.3f}, less by {more}"),
    }
    return all_of(parts, spell_out=3)


def at_the_end(ours: Rows, theirs: Rows) -> Interval:
    """Difference of the last policies."""
    return ours.minus(theirs)


def on_the_way(ours: Rows, theirs: Rows) -> Interval:
    """Difference of the areas under two learning curves, as means over the checkpoints."""
    first, second = (rows.curve(least=2)[1].mean(axis=1) for rows in (ours, theirs))
    same = ours.unique("seed") == theirs.unique("seed")
    return (paired_diff if same else diff)(first, second)


def better(task: str, how: Difference = at_the_end, metric: str = "success") -> Judge:
    """T3: a method above cloning and both GAIL-style agents, on "grid", B or all "simulators"."""

    def judge(rows: Rows, method: str) -> Judgement:
        where = {"grid": [grid_of(rows)], B: [B]}.get(task) or simulators(rows, C)
        parts = {}
        for place in where:
            scores = rows.of(task=place, metric=metric)
            for rival in (name for name in RIVALS if name != method):
                more = how(scores.of(method=method), scores.of(method=rival))
                text = f"{more.value:+.2f} [{more.low:.2f}, {more.high:.2f}]"
                name = METHODS.label(rival) + (f", {place}" if len(where) > 1 else "")
                parts[name] = by_interval(more, ours=text)
        return all_of(parts, spell_out=len(RIVALS))

    return judge


def above_on_all(metric: str, threshold: float, *without: str) -> Judge:
    """A number of the method above a threshold, on every simulator task that was run."""

    def judge(rows: Rows, method: str) -> Judgement:
        parts = {}
        for task in simulators(rows, *without):
            ci = rows.of(task=task, method=method, metric=metric).ci()
            parts[task] = one_sided(task, by_interval(ci, threshold))
        return all_of(parts)

    return judge


ON_GRID = {"tasks": ("grid*",), "only": ("default", "paper")}
AT_FULL_BUDGET = {"tasks": ("hopper*",), "only": ("long", "paper")}
BETTER = "beats existing methods"

CLAIMS = [
    Claim(
        "T1",
        "D learns one-step reachability on the grid: open neighbours at least 0.05 above walled "
        "ones, AUC over all pairs at least 0.95 (5 seeds)",
        *("abstract", "no number", learns_reachability, "tdil"),
        **ON_GRID,
    ),
    Claim(
        "T2",
        "R_TDIL pays twice the demonstration's share of (cell, action) pairs or more, at most "
        "half, and more than the GAIL-style reward (grid)",
        *("abstract", "denser", denser_reward, "tdil"),
        **ON_GRID,
        against=("gail",),
    ),
    Claim(
        "T3-A",
        "From all 100 cells of the grid TDIL succeeds more often than BC, GAIL-style, GAIL-style "
        "+ BC (last policy, 5 seeds)",
        *("abstract; maze experiment", BETTER, better("grid"), "tdil"),
        **ON_GRID,
        against=RIVALS,
        headline=True,
    ),
    Claim(
        "T3-area",
        "…and over the whole of training: area under success above theirs (grid; our addition)",
        *("maze experiment", "–", better("grid", on_the_way, "success_curve"), "tdil"),
        **ON_GRID,
        against=RIVALS,
    ),
    Claim(
        "T3-B",
        "From 100 starts in a continuous maze TDIL succeeds more often than these three (10,000 "
        "steps, 3 seeds)",
        *("abstract", BETTER, better(B), "tdil", (B,)),
        against=RIVALS,
    ),
    Claim(
        "T3-M",
        "On MuJoCo and Adroit, at full budget, TDIL's return is above that of these three on "
        "every task",
        *("abstract", BETTER, better("simulators", metric="relative_return"), "tdil"),
        **AT_FULL_BUDGET,
        against=RIVALS,
    ),
    Claim(
        "T4",
        "Where time is irreversible D knows its direction: mean D(s, s') − D(s', s) above 0.3 "
        "(default: Hopper, 12,000 steps, 3 seeds)",
        "hard negatives",
        "no number",
        *(above_on_all("time_gap", 0.3, *NO_HARD_NEGATIVES), "tdil", ("hopper*",)),
    ),
    Claim(
        "T5",
        "ρ_rel ranks a run's checkpoints as the return does: rank correlation above 0.5 "
        "(default: Hopper, 12,000 steps, 3 seeds)",
        *("abstract", "no number", above_on_all("spearman", 0.5), "tdil", ("hopper*",)),
    ),
    Claim(
        "T6",
        "One demonstration suffices for 0.9 of the expert's return on every task (five MuJoCo "
        "tasks, Adroit Door)",
        *("abstract", "expert level", above_on_all("relative_return", 0.9, C), "tdil"),
        **AT_FULL_BUDGET,
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
