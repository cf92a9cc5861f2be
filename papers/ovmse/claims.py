"""The claims of OVMSE as functions of the rows of eval.py and of the method that is judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.stats import binom

from common.claims import (
    CONTRADICTED,
    INCONCLUSIVE,
    REPRODUCED,
    Claim,
    Judge,
    Judgement,
    Rows,
    all_of,
    by_interval,
    claims_cli,
    not_worse,
)
from common.stats import diff, ratio_of_means
from papers.ovmse.methods import METHODS
from papers.ovmse.task import CHAIN

MEDIUM, MORE_AGENTS = "3m-medium", "8m-medium"
DIP, FALL = 0.1, 0.1  # of the win rate; of the probe set's value
MOST, FEW = 0.8, 0.5  # shares of the seeds: as many show it; fewer do not
NO_WORSE, NO_WORSE_FINAL = 0.03, 0.05  # margins of area and final win rate
EPISODES, LOOKS = 256, 5  # of an evaluation, and how many follow the first, where dips are seen
RIVALS = ("finetune-tuned", "keep-cql", "mix-tuned", "scratch-tuned")  # each with its best ε
BASELINES = (*RIVALS, "finetune-small")
NEVER_FALLS = 0.9  # of Q*: what a memory keeps on the chain


def null_dip(win_rate: float, threshold: float = DIP) -> float:
    """Chance of a dip above ``threshold`` in a run in which nothing changes.

    Six independent evaluations of one policy: the first less the lowest of the five that follow.
    """
    won = np.arange(EPISODES + 1)
    # the lowest of five is below x_0 - threshold n
    lowest = 1 - binom.sf(np.ceil(won - threshold * EPISODES) - 1, EPISODES, win_rate) ** LOOKS
    return float((binom.pmf(won, EPISODES, win_rate) * lowest).sum())


def of(rows: Rows, metric: str, method: str, task: str = MEDIUM) -> Rows:
    """One number per seed, where no setting was varied."""
    return rows.of(task=task, method=method, metric=metric, lambda0=None, epsilon=None)


def unlearns(rows: Rows, method: str, task: str = MEDIUM) -> Judgement:
    """C1: seeds whose win rate dips, or whose value of the data falls, in the first quarter."""
    dips = of(rows, "dip", method, task).values()
    falls = of(rows, "probe_fall", method, task).values()
    shares = float((dips > DIP).mean()), float((falls > FALL).mean())
    share = max(shares)
    verdict = REPRODUCED if share >= MOST else CONTRADICTED if share < FEW else INCONCLUSIVE
    null = null_dip(of(rows, "start", method, task).value())
    text = f"dip {of(rows, 'dip', method, task).ci()}, in {shares[0]:.0%} of {len(dips)} seeds"
    detail = (
        f"{text} (by chance {null:.0%}); value of the data falls by "
        f"{of(rows, 'probe_fall', method, task).ci()}, in {shares[1]:.0%}"
    )
    numbers = {"dips": dips, "falls": falls, "null": null, "share": share}
    return Judgement(verdict, text, numbers, detail)


def twin(method: str) -> str:
    """The plain fine-tuning that explores like a method (itself, for one of them)."""
    mine = METHODS[method]
    plain = ("finetune-eps", "finetune-small", "finetune-tuned", "se-only", "se-tuned")
    alike = {METHODS[name].explores: name for name in plain}
    return alike.get(mine.explores, "se-only" if mine.explore == "one" else "finetune-eps")


def prevents(task: str) -> Judge:
    """C2: less dip, and a higher early value of the data, than fine-tuning that explores alike."""

    def judged(rows: Rows, method: str) -> Judgement:
        plain = twin(method)
        dip = of(rows, "dip", plain, task).minus(of(rows, "dip", method, task))
        early = of(rows, "probe_early", method, task)
        value = early.minus(of(rows, "probe_early", plain, task))
        found = all_of({"dip less": by_interval(dip), "value more": by_interval(value)})
        if unlearns(rows, plain, task).verdict != REPRODUCED:
            text = f"{found.ours} ({METHODS.label(plain)} does not unlearn)"
            return replace(found, verdict=INCONCLUSIVE, ours=text)
        return found

    return judged


def remembers(rows: Rows, method: str) -> Judgement:
    """C2x: on the exact chain a good value never falls far; plain Q-learning's does."""
    worst = rows.of(task=CHAIN, metric="chain_worst")
    plain = worst.of(method="finetune-eps").ci()
    found = all_of(
        {
            "lowest value": by_interval(worst.of(method=method).ci(), NEVER_FALLS),
            "plain Q-learning": by_interval(plain, NEVER_FALLS, above=False),
        }
    )
    return replace(found, ours=f"{found.ours} of Q*")


def explores_better(rows: Rows, method: str) -> Judgement:
    """C3: more area than with epsilon for each, and no less than with little exploration."""
    area = of(rows, "auc", method)
    more = area.minus(of(rows, "auc", "finetune-eps"))
    less_noise = area.minus(of(rows, "auc", "finetune-small"))
    return all_of({"less ε": by_interval(more), "less small ε": not_worse(less_noise, NO_WORSE)})


def faster(rows: Rows, method: str) -> Judgement:
    """C4a: area under the win rate above each rival's."""
    area = of(rows, "auc", method)
    parts = {
        METHODS.label(rival): by_interval(area.minus(of(rows, "auc", rival)))
        for rival in RIVALS
        if rival != method
    }
    return all_of(parts, spell_out=4)


def ends_as_well(rows: Rows, method: str) -> Judgement:
    """C4b: final win rate not worse than each baseline's."""
    final = of(rows, "final", method)
    parts = {
        METHODS.label(rival): not_worse(final.minus(of(rows, "final", rival)), NO_WORSE_FINAL)
        for rival in BASELINES
        if rival != method
    }
    found = all_of(parts, spell_out=0)
    return replace(found, ours=f"{final.ci()}; {found.ours}")


def half_the_steps(rows: Rows, method: str) -> Judgement:
    """C5: environment steps to a win rate of .6, over those from scratch."""
    ours, scratch = (of(rows, "steps_to_60", name) for name in (method, "scratch-tuned"))
    ci = ratio_of_means(*ours.paired(scratch), paired=True)
    text = f"{ci} ({ours.value():,.0f} against {scratch.value():,.0f} steps"
    tuned = of(rows, "steps_to_60", "finetune-tuned")
    text += f"; fine-tuning {tuned.value():,.0f})" if tuned else ")"
    return by_interval(ci, 0.5, above=False, ours=text)


def scales(rows: Rows, method: str) -> Judgement:
    """C6: what sequential exploration gains in area, with eight agents less with three."""
    gains = []
    for task in (MORE_AGENTS, MEDIUM):
        pair = of(rows, "auc", method, task).paired(of(rows, "auc", "finetune-eps", task))
        gains.append(pair[0] - pair[1])
    ci = diff(*gains)
    return by_interval(ci, ours=f"{ci} ({gains[0].mean():.2f} against {gains[1].mean():.2f})")


def capped(rows: Rows, method: str) -> Judgement:
    """C7: final win rate less that with a memory that never fades."""
    final, fixed = (of(rows, "final", name) for name in (method, "ovmse-fixed"))
    ci = final.minus(fixed)
    return by_interval(ci, ours=f"{ci} ({final.value():.2f} against {fixed.value():.2f})")


def claim(
    name: str, statement: str, source: str, paper: str, judge: Judge, **more: object
) -> Claim:
    """A claim of OVMSE on the medium data of SMAX-3m unless it says otherwise."""
    fields = {"method": "ovmse", "tasks": (MEDIUM,), "specific": "shared" not in more, **more}
    return Claim(name, statement, source, paper, judge, **fields)  # type: ignore[arg-type]


WEB, NONE = "Abstract", "no number found"
CLAIMS = [
    claim(
        "C1",
        "Unlearning: under ε-greedy the win rate dips above .1, or the data's value falls above "
        "10 %, in 80 % of seeds (SMAX-3m, 10,000 steps)",
        *("Introduction", NONE, unlearns),
        method="finetune-eps",
        shared="it is the problem, not the contribution: all that explore or bootstrap alike do",
    ),
    claim(
        "C2",
        "OVM prevents it: less dip than fine-tuning that explores alike, and a higher value of the "
        "data (SMAX-3m, first 10,000 steps)",
        *(WEB, NONE, prevents(MEDIUM)),
        method="ovm-only",
        against=("finetune-eps",),
    ),
    claim(
        "C2b",
        "Also with SE and more agents: less dip than SE alone, and a higher value of the data "
        "(SMAX-8m, first 10,000 steps)",
        *(WEB, NONE, prevents(MORE_AGENTS)),
        tasks=(MORE_AGENTS,),
        against=("se-only",),
    ),
    claim(
        "C2x",
        f"On the exact chain OVM keeps a right value's lowest point above {NEVER_FALLS:g} Q*, "
        "plain Q-learning does not (ε = .2, 200 seeds)",
        *("Method", NONE, remembers),
        method="ovm-only",
        tasks=(CHAIN,),
        against=("finetune-eps",),
    ),
    claim(
        "C3",
        "SE explores better: area above ε-greedy's from the same start, and not .03 below small "
        "ε's (SMAX-3m, 40,000 steps)",
        *(WEB, NONE, explores_better),
        method="se-only",
        against=("finetune-eps", "finetune-small"),
    ),
    claim(
        "C4a",
        "OVMSE learns faster: area above fine-tuning, CFCQL kept, half offline data and from "
        "scratch (SMAX-3m, 40,000 steps, each with its tuned ε)",
        *(WEB, NONE, faster),
        method="ovmse-tuned",
        against=RIVALS,
        headline=True,
    ),
    claim(
        "C4b",
        "It ends as well: final win rate not .05 below any baseline's (SMAX-3m, 40,000 steps, "
        "tuned ε)",
        *(WEB, NONE, ends_as_well),
        method="ovmse-tuned",
        against=BASELINES,
    ),
    claim(
        "C5",
        "Half the steps: a win rate of .6 in at most half of scratch's environment steps (SMAX-3m; "
        "never counts as 40,000)",
        *(WEB, NONE, half_the_steps),
        method="ovmse-tuned",
        against=("scratch-tuned",),
    ),
    claim(
        "C6",
        "SE gains more with more agents: area above ε-greedy's on SMAX-8m less that on SMAX-3m",
        *("Introduction", NONE, scales),
        method="se-only",
        tasks=(MORE_AGENTS, MEDIUM),
        against=("finetune-eps",),
    ),
    claim(
        "C7",
        "The memory has to fade: final win rate above that with λ at .9 throughout (SMAX-3m, "
        "40,000 steps)",
        *("Method (annealing)", NONE, capped),
        against=("ovmse-fixed",),
        shared="any method without a memory that stays may end above it",
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
