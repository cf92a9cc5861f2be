"""The claims of AEPO as functions of the rows of eval.py and of the method that is judged."""

from __future__ import annotations

import itertools

import numpy as np

from common.claims import (
    Claim,
    Judge,
    Judgement,
    NoResults,
    Rows,
    all_of,
    by_interval,
    claims_cli,
    not_worse,
)
from common.stats import Interval, paired_diff, ratio_of_means
from papers.aepo.methods import METHODS
from papers.aepo.task import CONTROL, D4RL, QUALITIES, SETS, TASKS

SHAPES = ("concave", "convex")
KAPPA_HALF = 1.0  # beta at which beta |H| Var(mu) = .5
BETA = 3.0  # of the sets
BANDITS = tuple(name for name, task in TASKS.items() if task.bandit)
CLOSE = 1.25  # ratio of W2 to contrastive estimation's that is still close
MARGIN = 3.0  # points of the score
CONTROL_TASKS = tuple(f"{name}-{quality}" for name in CONTROL for quality in QUALITIES)
SCORED = ("halfcheetah-replay", "halfcheetah-medium-expert", "reacher-replay")  # at default
GAUSSIAN = {"task": SHAPES, "beta": KAPPA_HALF}
SET = {"task": tuple(SETS), "beta": BETA}


def plain(rows: Rows) -> Rows:
    """Rows of runs with the settings that claims are about."""
    return rows.of(candidates=None, support=None)


def chosen(rows: Rows) -> Rows:
    """Control's rows at the beta and w that the tuning has chosen for their method; all others."""
    frame = rows.frame
    if "w" not in frame:
        return rows
    beta, w = (
        frame["method"].astype(str).map({m.name: getattr(m, name) for m in METHODS.values()})
        for name in ("beta", "w")
    )
    tuned = np.isclose(frame["beta"], beta) & (frame["w"].isna() | np.isclose(frame["w"], w))
    return Rows(frame[tuned | frame["task"].isin(BANDITS)])


def pooled(own: Rows, other: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Values of two methods that share task and seed, task after task.

    Raises:
        NoResults: if they share fewer than two.
    """
    mine, theirs = [], []
    for task in own.unique("task"):
        parts = [rows.of(task=task) for rows in (own, other)]
        if all(parts):
            found = parts[0].paired(parts[1], least=1)
            mine.append(found[0])
            theirs.append(found[1])
    if sum(map(len, mine)) < 2:
        raise NoResults(f"fewer than two runs that {own} and {other} share")
    return np.concatenate(mine), np.concatenate(theirs)


def scores(rows: Rows, method: str, tasks: tuple[str, ...]) -> Rows:
    """Scores at the temperature and scale that the tuning has chosen for the method."""
    tuned = {"beta": METHODS[method].beta, "w": METHODS[method].w}
    return plain(rows).of(metric="score", method=method, task=tasks, **tuned)


def gained(rows: Rows, method: str, rival: str, tasks: tuple[str, ...]) -> Interval:
    """Difference of scores, over tasks and seeds."""
    return paired_diff(*pooled(scores(rows, method, tasks), scores(rows, rival, tasks)))


def beside(rows: Rows, method: str, others: tuple[str, ...], tasks: tuple[str, ...]) -> str:
    """Differences to others, which decide nothing; empty for those that were not run."""
    found = []
    for other in others:
        try:
            if other != method:
                found.append(f"{METHODS.label(other)} {gained(rows, method, other, tasks)}")
        except NoResults:
            continue
    return f"less {', '.join(found)}" if found else ""


def ratio(rows: Rows, metric: str, method: str, rival: str) -> Interval:
    """Ratio of means over tasks and seeds that both have."""
    of = chosen(plain(rows)).of(metric=metric)
    own, other = pooled(of.of(method=method), of.of(method=rival))
    return ratio_of_means(own, other, paired=True)


# -- judges ----------------------------------------------------------------------------------------


def nearer(rows: Rows, method: str) -> Judgement:
    """W2 to the target below that without variance and the naive one's, Q concave and convex."""
    of = plain(rows).of(metric="w2", beta=KAPPA_HALF)
    parts = {}
    for shape, rival in itertools.product(SHAPES, ("no-variance", "naive")):
        own = of.of(task=shape)
        ci = own.of(method=rival).minus(own.of(method=method))
        parts[f"{shape}, {METHODS.label(rival)}"] = by_interval(ci)
    return all_of(parts)


def close(where: dict[str, object]) -> Judge:
    """Mean W2 at most ``CLOSE`` times that of contrastive estimation."""

    def judge(rows: Rows, method: str) -> Judgement:
        found = ratio(rows.of(**where), "w2", method, "cep")
        return by_interval(found, CLOSE, above=False)

    return judge


def cheaper(rows: Rows, method: str) -> Judgement:
    """CPU seconds of guidance below contrastive estimation's, on bandits and in control."""
    parts = {}
    places = {"Gaussians": GAUSSIAN, "sets": SET, "control": {"task": CONTROL_TASKS}}
    for name, where in places.items():
        found = ratio(rows.of(**where), "seconds_guidance", method, "cep")
        parts[name] = by_interval(found, 1.0, above=False)
    return all_of(parts)


def improves(rows: Rows, method: str) -> Judgement:
    """Score above the behaviour's, and above that of guidance by Q of the noisy action."""
    parts = {
        METHODS.label(rival): by_interval(gained(rows, method, rival, CONTROL_TASKS))
        for rival in ("bc", "naive")
    }
    return all_of(parts)


def surpasses(tasks: tuple[str, ...], rivals: tuple[str, ...]) -> Judge:
    """Score above each rival's; beside it the gain over no variance and over no guidance."""

    def judge(rows: Rows, method: str) -> Judgement:
        parts = {
            METHODS.label(rival): by_interval(gained(rows, method, rival, tasks))
            for rival in rivals
        }
        return all_of(parts, beside(rows, method, ("no-variance", "direct", "bc-mean"), tasks))

    return judge


def keeps_up(rows: Rows, method: str) -> Judgement:
    """Score not below IQL's and contrastive estimation's by more than the margin."""
    parts = {
        METHODS.label(rival): not_worse(gained(rows, method, rival, CONTROL_TASKS), MARGIN)
        for rival in ("iql", "cep")
    }
    return all_of(parts)


def needs_variance(rows: Rows, method: str) -> Judgement:
    """Score above that of the same guidance without the posterior's variance."""
    return by_interval(gained(rows, method, "no-variance", CONTROL_TASKS))


def claim(
    name: str, statement: str, source: str, paper: str, judge: Judge, **more: object
) -> Claim:
    """A claim of AEPO about control unless told otherwise."""
    more = {"method": "aepo", "specific": "shared" not in more, "tasks": SCORED, **more}
    return Claim(name, statement, source, paper, judge, **more)  # type: ignore[arg-type]


NOT_FOUND = "numbers not found"

CLAIMS = [
    claim(
        "ae.surpasses",
        "AEPO scores above IQL and above contrastive guidance with the same critic, one sample per "
        "state (our data and scale, horizons 50 and 200)",
        *("Abstract", NOT_FOUND, surpasses(CONTROL_TASKS, ("iql", "cep"))),
        against=("iql", "cep"),
        headline=True,
    ),
    claim(
        "ae.improves",
        "AEPO scores above the behaviour it guides, and above guidance by Q of the noisy action",
        *("Abstract", NOT_FOUND, improves),
        against=("bc", "naive"),
        shared="any guidance that estimates the energy should improve on the behaviour",
    ),
    claim(
        "ae.term",
        "The posterior's variance raises the score: AEPO above the same guidance without it",
        *("Method", NOT_FOUND, needs_variance),
        against=("no-variance",),
    ),
    claim(
        "ae.keeps_up",
        f"AEPO scores at most {MARGIN:g} points below IQL and below contrastive guidance (ours)",
        *("Not in the paper", "–", keeps_up),
        against=("iql", "cep"),
        shared="a guidance that does no harm keeps up as well",
    ),
    claim(
        "ae.variance",
        "Under its assumptions (Gaussian posterior, κ = .5) the analytic energy samples the target "
        "better than without variance, and than Q of the noisy action",
        *("Theorem", "exact to first order", nearer),
        tasks=SHAPES,
        against=("no-variance", "naive"),
        shared="any estimate that is nearer to the exact energy meets it, contrastive ones too",
    ),
    claim(
        "ae.close_gaussian",
        f"Close to contrastive estimation under its assumptions: W2 at most {CLOSE:g} times as "
        "large, κ = .5",
        *("Abstract", NOT_FOUND, close(GAUSSIAN)),
        tasks=SHAPES,
        against=("cep",),
        shared="whatever samples a Gaussian target well meets it",
    ),
    claim(
        "ae.close_sets",
        f"Close to contrastive estimation on multimodal behaviours: W2 at most {CLOSE:g} times as "
        "large, two-dimensional sets, β = 3",
        *("Abstract", NOT_FOUND, close(SET)),
        tasks=("8gaussians", "swissroll"),
        against=("cep",),
    ),
    claim(
        "ae.cost",
        "Guidance is trained in less CPU time than contrastive guidance, its support actions "
        "included, in as many steps",
        *("Abstract", "no contrastive samples", cheaper),
        tasks=("concave", "8gaussians", *SCORED),
        against=("cep",),
        shared="every regression has fewer network calls than M support actions per state",
    ),
    claim(
        "ae.d4rl",
        "AEPO scores above IQL and QGPO on D4RL's tasks (24 of the paper's 30 and more)",
        *("Main tables", NOT_FOUND, surpasses(tuple(D4RL), ("iql", "qgpo"))),
        tasks=("*-d4rl",),
        against=("iql", "qgpo"),
        only=("paper",),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
