"""The claims of NE as functions of the rows of eval.py and of the method that is judged."""

from __future__ import annotations

from dataclasses import replace

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
from common.stats import Interval
from papers.ne.config import SWEPT
from papers.ne.method import NEConfig
from papers.ne.methods import METHODS

CYCLE, PROBE, PIXELS = "cycle*", "probe", "pixels-*"
MUJOCO = ("halfcheetah", "ant", "walker2d", "humanoid")
REMEDIES = ("redo", "reset")
PLAIN = dict.fromkeys(SWEPT)  # rows of no sweep
LOSS = 0.05  # rise of the dense critics' inactive share below which there is no plasticity lost
REVIEWED = 0.05  # share of updates below which the review was hardly used
EARLIER = 0.25  # share of what is reviewed at the end that has to be of the other direction


def cycle_of(rows: Rows) -> Rows:
    """The rows of the flipping task (one of its lengths is run at a scale).

    Raises:
        NoResults: if there are none.
    """
    there = [task for task in rows.unique("task") if task.startswith(CYCLE[:-1])]
    if not there:
        raise NoResults("the task whose direction flips")
    return rows.of(task=there[0], **PLAIN)


def less(rows: Rows, metric: str, one: str, other: str) -> Interval:
    """Interval of the difference of two methods, paired by seed."""
    of = rows.of(metric=metric)
    return of.of(method=one).minus(of.of(method=other))


def beside(rows: Rows, metric: str, method: str, others: tuple[str, ...]) -> str:
    """Differences to others, which decide nothing; empty for those that were not run."""
    found = []
    for other in others:
        try:
            if other != method:
                found.append(f"{METHODS.label(other)} {less(rows, metric, method, other)}")
        except NoResults:
            continue
    return f"; less {', '.join(found)}" if found else ""


def better_return(rivals: tuple[str, ...], others: tuple[str, ...] = ()) -> Judge:
    """Return on what is trained, last two phases, above each rival's; others stand beside."""

    def judge(rows: Rows, method: str) -> Judgement:
        own = cycle_of(rows)
        parts = {
            METHODS.label(r): by_interval(less(own, "final_return", method, r)) for r in rivals
        }
        text = beside(own, "final_return", method, others)
        if len(rivals) == 1:
            [part] = parts.values()
            return replace(part, ours=part.ours + text)
        return all_of(parts, text.removeprefix("; "))

    return judge


def stays_active(rows: Rows, method: str) -> Judgement:
    """Active share of the critics' neurons, last quarter, above the dense ones'; if these lose."""
    own = cycle_of(rows)
    rise = own.of(metric="critic_inactive_rise", method="dense").value()
    ci = less(own, "critic_active", method, "dense")
    text = f"{ci}{beside(own, 'critic_active', method, ('static',))}; dense loses {rise:.3f}"
    if rise < LOSS:
        return Judgement(INCONCLUSIVE, text + ": no plasticity loss at this length")
    return by_interval(ci, ours=text, dense_rise=rise)


def keeps_the_other(rows: Rows, method: str) -> Judgement:
    """Return on the direction that is not trained, last quarter, above that without review.

    A method that reviews has to have done so, and to have seen the other direction by it.
    """
    own = cycle_of(rows)
    ci = less(own, "final_other", method, "ne-no-review")
    if METHODS[method].review == "none":
        return by_interval(ci)
    mine = own.of(method=method)
    share = mine.of(metric="reviewed_share").value()
    other = mine.of(metric="review_other").value()
    text = f"{ci} ({share:.2f} of updates reviewed, {other:.2f} of it the other direction)"
    if share < REVIEWED or other < EARLIER:
        return Judgement(INCONCLUSIVE, text + "; hardly used")
    return by_interval(ci, ours=text, reviewed=share, other=other)


def fewer_inactive(rival: str, others: tuple[str, ...]) -> Judge:
    """Inactive share on the probe, last five tasks, below a rival's."""

    def judge(rows: Rows, method: str) -> Judgement:
        own = rows.of(task=PROBE, **PLAIN)
        ci = less(own, "last_inactive", method, rival)
        text = f"{ci}{beside(own, 'last_inactive', method, others)}"
        return by_interval(ci, above=False, ours=text)

    return judge


def grows(rows: Rows, method: str) -> Judgement:
    """From the log: no layer ever shrinks, pruned <= omega grown each time, the target is met."""
    own = cycle_of(rows).of(method=method)
    least = own.of(metric="least_growth").values(least=1).min()
    most = own.of(metric="most_pruned").values(least=1).max()
    missed = own.of(metric="target_missed").values(least=1).max()
    parts = {
        "least net growth of a layer": compare(float(least), 0.0),
        "most pruned of what grew": compare(float(most), NEConfig.omega, above=False),
        "connections of the target missed": compare(float(missed), 0.0, above=False),
    }
    text = f"net growth ≥ {least:.0f}, pruned ≤ {most:.3f} of grown, target missed by {missed:.1%}"
    return replace(all_of(parts), ours=text)


def better_everywhere(rows: Rows, method: str) -> Judgement:
    """Return of the last quarter on four MuJoCo tasks above TD3's and each remedy's."""
    parts = {}
    for task in MUJOCO:
        own = rows.of(task=task)
        for rival in ("dense", *REMEDIES):
            ci = less(own, "final_return", method, rival)
            parts[f"{task}, {METHODS.label(rival)}"] = by_interval(ci)
    return all_of(parts)


def better_from_pixels(rows: Rows, method: str) -> Judgement:
    """Return of the last quarter above DrQ's on every task from pixels that was run."""
    tasks = [task for task in rows.unique("task") if task.startswith(PIXELS[:-1])]
    if not tasks:
        raise NoResults("a task from pixels")
    parts = {}
    for task in tasks:
        ci = less(rows.of(task=task), "final_return", method, "dense")
        parts[task.removeprefix(PIXELS[:-1])] = by_interval(ci)
    return all_of(parts)


def claim(
    name: str, statement: str, source: str, paper: str, judge: Judge, **more: object
) -> Claim:
    """A claim of NE about the flipping task unless told otherwise."""
    more = {"method": "ne", "specific": "shared" not in more, "tasks": (CYCLE,), **more}
    return Claim(name, statement, source, paper, judge, **more)  # type: ignore[arg-type]


CURVES = "curves only"

CLAIMS = [
    claim(
        "ne.return",
        "NE outperforms plain TD3 while the task changes: return on the trained direction, ends of "
        "the last two phases (HalfCheetah, direction flips)",
        *("Cyclic experiment", CURVES, better_return(("dense",), ("static", "small"))),
        against=("dense",),
        headline=True,
    ),
    claim(
        "ne.active",
        "NE keeps more of the critics' neurons active than TD3, last quarter, where TD3 loses "
        f"{LOSS} or more of them",
        *("Activated-neuron ratio", CURVES, stays_active),
        against=("dense",),
    ),
    claim(
        "ne.remedies",
        "NE outperforms ReDo and resets: return on the trained direction, ends of the last two "
        "phases",
        *("Main figures", CURVES, better_return(REMEDIES)),
        against=REMEDIES,
    ),
    claim(
        "ne.review",
        "Review protects old skills: return on the direction not trained, last quarter, above NE's "
        "without review",
        *("Ablation", CURVES, keeps_the_other),
        against=("ne-no-review",),
    ),
    claim(
        "ne.gradient_growth",
        "Growth by gradients is better than at random: return on the trained direction, ends of "
        "the last two phases",
        *("Motivating figure", CURVES, better_return(("ne-random",))),
        against=("ne-random",),
    ),
    claim(
        "ne.dormant_probe",
        "NE keeps the inactive share below a dense network's: digits with permuted labels, last 5 "
        "of 20 tasks (ours)",
        "Not in the paper",
        "–",
        fewer_inactive("dense", ("ne-no-prune", "static")),
        tasks=(PROBE,),
        against=("dense",),
    ),
    claim(
        "ne.prune_probe",
        "Pruning dormant neurons lowers the inactive share of a growing network: the same probe "
        "(ours)",
        "Asked for by a reviewer",
        "–",
        fewer_inactive("ne-no-prune", ("ne-zero-bias", "ne-random")),
        tasks=(PROBE,),
        against=("ne-no-prune",),
        shared="a network with fewer dormant neurons for another reason meets it as well",
    ),
    claim(
        "ne.grow",
        f"At every update layers only gain, at most {NEConfig.omega} of what grows is pruned, and "
        "the target density is reached",
        *("Method", "by construction", grows),
        shared="every growing variant does by construction",
    ),
    claim(
        "ne.mujoco",
        "NE outperforms TD3, ReDo and resets on HalfCheetah, Ant, Walker2d and Humanoid (3M steps)",
        *("Main figure, TD3", CURVES, better_everywhere),
        tasks=MUJOCO,
        against=("dense", *REMEDIES),
    ),
    claim(
        "ne.pixels",
        "NE outperforms DrQ from pixels: return of the last quarter on every task that was run",
        *("Main figure, DrQ", CURVES, better_from_pixels),
        tasks=(PIXELS,),
        against=("dense",),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
