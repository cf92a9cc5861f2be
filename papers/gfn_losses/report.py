"""Tables and figures of the losses on the grid, the bit sequences and Theorem 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from common.report import (
    Column,
    Drawing,
    Panel,
    Table,
    by_method,
    curves,
    grid,
    heatmaps,
    intervals,
    last,
    mean,
    report_cli,
    shown,
    tuning,
)
from common.report import cell as ci
from common.rows import Rows
from papers.gfn_losses.claims import OBJECTIVES, target_distance
from papers.gfn_losses.methods import METHODS
from papers.gfn_losses.task import BitSpec

#: Paper: (runs of 5 that find all 60 modes, median step) and Spearman, n = 120 (Tables 3 and 4).
_PAPER = """
quadratic    1/5         0.808 ± 0.016 | 5/5, 13.4k 0.791 ± 0.018 | 4/5, 50.6k 0.809 ± 0.017
linex1       5/5, 98.0k  0.742 ± 0.022 | 5/5, 10.8k 0.746 ± 0.011 | 5/5, 20.3k 0.752 ± 0.025
linex05      5/5, 111.2k 0.745 ± 0.002 | 5/5, 11.7k 0.758 ± 0.013 | 5/5, 55.9k 0.771 ± 0.019
shifted-cosh 4/5, 92.2k  0.812 ± 0.015 | 0/5        0.821 ± 0.009 | 5/5, 90.0k 0.813 ± 0.015
"""


def paper_says() -> dict[tuple[str, str], tuple[str, str]]:
    """(loss, objective) -> (runs with all modes, median step; Spearman) of the paper."""
    found = {}
    for line in _PAPER.strip().splitlines():
        name, rest = line.split(maxsplit=1)
        for objective, part in zip(("tb", "db", "stb"), rest.split("|"), strict=True):
            words = part.split()
            found[name, objective] = (" ".join(words[:-3]), " ".join(words[-3:]))
    return found


GRIDS = [f"{g}-{o}" for g in ("grid", "control") for o in OBJECTIVES]
NAMES = {"grid": "hard", "control": "easy"}


def title(task: str) -> str:
    """ "hard grid, TB" of grid-tb, "bits, DB" of bits-db."""
    where, objective = task.split("-", 1)
    grid_name = f"{NAMES[where]} grid" if where in NAMES else where
    return f"{grid_name}, {objective.upper()}"


def reached(metric: str, of: str) -> Callable[[Rows], str]:
    """Cell: how many of the seeds reached something, and the median step."""

    def share(rows: Rows) -> str:
        steps = rows.of(metric=metric).values(least=0)
        n = len(rows.of(metric=of).values(least=1))
        return f"{len(steps)}/{n}" + (f", {np.median(steps):.0f}" if len(steps) else "")

    return shown(share)


def main_table(rows: Rows) -> Table:
    """Area on four objectives, the easy grid, and modes against fit on bits."""
    heads = {"TB": "grid-tb", "DB": "grid-db", "STB": "grid-stb", "FM": "grid-fm"}
    columns = [
        *(Column(h, {"task": t, "metric": "area"}, "min") for h, t in heads.items()),
        Column("easy, TB", {"task": "control-tb", "metric": "area"}, "min"),
        Column("bits TB: modes", {"task": "bits-tb", "metric": "modes_found"}, "max"),
        Column("distance", {"task": "bits-tb", "metric": "mean_distance"}),
    ]
    table = grid(
        rows,
        "Area under the exact L1 curve (mean over training, 0 to 2), modes of 20 found by step "
        "4,000, and mean distance of the samples to a mode",
        by_method(METHODS),
        columns,
        corner="loss",
        main=True,
    )
    floors = [rows.of(task=t, metric="uniform_policy_l1") for t in (*heads.values(), "control-tb")]
    untrained = [f"{floor.value():.2f}" if floor else "–" for floor in floors]
    target = f"{target_distance(BitSpec()):.1f}"
    lines = [
        *table.rows,
        ["untrained, uniform policy", *untrained, "–", "–"],
        ["target (exact)", *["0"] * 5, "20", target],
    ]
    return Table(table.title, table.columns, lines, main=True)


def tables(rows: Rows) -> list[Table]:
    """Main table; grid, bit sequences (the paper's numbers beside), molecules, theorem."""
    if rows.unique("lr"):  # the scale tuning
        what = "area under the L1 curve, median of the seeds"
        tried = [(task, {"task": task, "metric": "area"}) for task in GRIDS if rows.of(task=task)]
        along = ("lr", "grad_clip")
        return [tuning(rows, METHODS, of, along, title=f"{title(t)}: {what}") for t, of in tried]
    result = [main_table(rows)]
    lines = [
        (f"{title(t)}: {label}", {"task": t, **of})
        for t in GRIDS
        for label, of in by_method(METHODS)
    ]
    result.append(
        grid(
            rows,
            "HyperGrid, exact L1 in [0, 2]; the paper shows curves only",
            lines,
            [
                Column("area", {"metric": "area"}),
                Column("L1 at the end", {"metric": "l1_final"}),
                Column("regions", {"metric": "regions_found"}),
                Column("runs < 0.2, median step", show=reached("steps_to_l1_0.2", "area")),
                Column("mean empirical L1", {"metric": "l1_mean_empirical"}, show=mean(5)),
            ],
            corner="grid, objective: loss",
        )
    )
    result.append(bits_table(rows))
    molecules = [(label, {**of, "task": "mols-stb"}) for label, of in by_method(METHODS)]
    ends = [Column(m, {"metric": m}, show=last) for m in ("mean_score", "top_score")]
    similar = Column("similarity", {"metric": "similarity"})
    result.append(grid(rows, "Molecules (sEH), at the end", molecules, [*ends, similar]))
    result.append(theorem_table(rows))
    return [table for table in result if table.rows]


def bits_table(rows: Rows) -> Table:
    """Bit sequences beside the paper's Tables 3 and 4."""
    body, says = [], paper_says()
    for objective in ("tb", "db", "stb"):
        for label, of in by_method(METHODS):
            cell = rows.of(task=f"bits-{objective}", **of)
            if not cell:
                continue
            paper = says.get((of["method"], objective), ("–", "–"))
            ours = [ci(cell.of(metric=m)) for m in ("modes_found", "spearman", "mean_distance")]
            runs = reached("steps_to_all_modes", "modes_found")(cell)
            collapsed = f"{cell.of(metric='collapsed').values(least=1).sum():.0f}"
            name = f"{objective.upper()}: {label}"
            body.append([name, ours[0], runs, paper[0], ours[1], paper[1], ours[2], collapsed])
    heads = ["objective: loss", "modes found", "runs with all modes, median step", "paper"]
    heads += ["Spearman", "paper's Spearman", "mean distance", "collapsed"]
    target = target_distance(BitSpec())
    return Table(
        "Bit sequences (ours n = 40, 20 modes; the paper n = 120, 60 modes); the target's mean "
        f"distance to a mode is {target:.2f} at n = 40",
        heads,
        body,
    )


def theorem_table(rows: Rows) -> Table:
    """Relative gradient errors by DAG and part."""
    errors = rows.of(metric="gradient_error")
    pairs = [(d, p) for d in errors.unique("dag") for p in errors.of(dag=d).unique("part")]
    lines = [(f"{dag}, {part}", {"dag": dag, "part": part}) for dag, part in pairs]
    columns = [
        Column(label, of, show=lambda r: f"{r.value():.0e}") for label, of in by_method(METHODS)
    ]
    text = "Theorem 1: relative error between the gradients of loss and divergence (float64)"
    return grid(errors, text, lines, columns, corner="DAG, part")


def panel(task: str, metric: str, ylabel: str) -> Panel:
    """A metric of a task."""
    return Panel(title(task), {"task": task, "metric": metric}, ylabel)


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """L1 curves and bit modes (main), all bit modes, regions, learned distributions."""
    if rows.unique("lr"):  # the scale tuning
        return {}
    tasks = [f"grid-{o}" for o in OBJECTIVES] + ["control-tb"]
    l1 = [panel(task, "l1_sum_exact", "exact L1") for task in tasks]
    bits = [panel(f"bits-{o}", "modes", "modes found") for o in OBJECTIVES]
    found = [panel(task, "regions_found", "regions") for task in tasks]
    data = {e["method"]: e["data"] for e in extras if e["name"] == "p_terminal"}
    maps = [("target", e["data"]) for e in extras if e["name"] == "target"]
    maps += [(METHODS.label(m), data[m]) for m in METHODS if maps and m in data]
    drawn = {
        "curves": (
            curves(rows, METHODS, [*l1, bits[0]], width=2.7),
            "Exact L1 distance of the sampler to its target (0 is perfect) and bit modes found, "
            "against training steps; mean and 95 % band over the seeds of the claims (TB 20, DB "
            "10, others 5). On the easy grid the curves of Quadratic and Linex(1/2) lie on each "
            "other.",
        ),
        "bit_modes": (
            curves(rows, METHODS, bits),
            "Bit modes found so far against training steps, mean and 95 % band over 5 seeds.",
        ),
        "regions": (
            intervals(rows, METHODS, found, width=2.6),
            "Reward regions in which at least one training sample fell: a dot per seed, mean and "
            "95 % interval. All losses find all regions with FM and on the easy grid.",
        ),
        "distributions": (
            heatmaps(maps, root=True),
            "Distribution of the sampled corner of the grid (TB), mean of three seeds; colour is "
            "the square root of the probability, the same scale in all panels.",
        ),
    }
    return {
        name: Drawing(figure, caption, main=name == "curves")
        for name, (figure, caption) in drawn.items()
        if figure is not None
    }


if __name__ == "__main__":
    report_cli(tables, figures)
