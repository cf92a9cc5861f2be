"""Tables of UMO²: queues by network, utilities and gaps, AdaPFOL's grid; figures.py draws."""

from __future__ import annotations

from common.claims import marked
from common.report import Column, Table, grid, mean, report_cli, shown
from common.rows import NoResults, Rows
from common.stats import mean_ci
from papers.umo2.claims import LONG, STABLE_SLOPE
from papers.umo2.figures import NETWORKS, Setting, figures, heading, settings, swept
from papers.umo2.methods import METHODS, OLO, UTILITY, policies
from papers.umo2.olo import MAGNITUDES, SWITCHES
from papers.umo2.rates import by_horizon, exponent, gaps, law
from papers.umo2.references import phase_utility, reference_utility


def main_table(rows: Rows) -> Table:
    """Mean queues on Net-A, and on Net-B at the load between its limits."""

    def column(task: str, at: Setting) -> Column:
        @shown
        def show(cell: Rows) -> str:
            queue = cell.value()
            (name,) = cell.unique("method")
            slope = rows.of(task=task, method=name, metric="quarter_slope", **at).ci()
            text = f"{queue:,.0f}" if queue >= 100 else f"{queue:.3g}"
            return text + (" ↑" if slope.low > STABLE_SLOPE else "")

        title = heading(at) if task == "net-a" else f"{NETWORKS[task].split()[0]}, {heading(at)}"
        return Column(title, {"task": task, "metric": "mean_queue", **at}, "min", show)

    there = settings(rows, "net-a", "rho", "kappa")
    columns = [column("net-a", at) for at in there]
    columns += [column("net-b", at) for at in settings(rows, "net-b", "rho", "kappa")[-1:]]
    known = policies("net-a")
    title = (
        "Mean queue in packets, T = 100,000, 20 seeds, Net-A where not said otherwise. ↑: grows "
        "by more than 0.002 packets a slot in the last quarters. NSO and OGD see all capacities, "
        "backpressure and 'one entry seen' what they serve; † is told what it cannot know"
    )
    lines = [(marked(METHODS, n), {"method": n}) for n in known]
    told = [marked(METHODS, n) for n in known.having("reference")]
    return grid(rows, title, lines, columns, corner="policy", main=True, unmarked=told)


@shown
def fitted(rows: Rows) -> str:
    """Exponent of the queue's growth within the runs of one job, with its interval."""
    parts = [rows.of(step=i) for i in range(3)]
    if any(len(part) != 1 for part in parts):
        raise NoResults("no one exponent of all seeds")
    return "t^{:.2f} [{:.2f}, {:.2f}]".format(*(part.value() for part in parts))


def network_table(rows: Rows, task: str) -> Table:
    """Queue, slope and growth of all policies in all settings of a network."""
    lines = [
        (f"T={s['horizon']:,.0f}, {heading(s)}: {marked(METHODS, n)}", {"method": n, **s})
        for s in settings(rows, task, "horizon", "rho", "kappa")
        for n in policies(task)
    ]
    columns = [
        Column("mean queue", {"metric": "mean_queue"}),
        Column("quarter slope", {"metric": "quarter_slope"}),
        Column("last decade of slots", {"metric": "growth"}, show=fitted),
    ]
    title = f"{NETWORKS[task]}: mean queue in packets, its slope in packets per slot, its growth"
    return grid(rows.of(task=task), title, lines, columns, corner="setting: policy")


def horizon_table(rows: Rows, task: str) -> Table:
    """Mean queue of whole runs across horizons."""

    @shown
    def grows(cell: Rows) -> str:
        return law(exponent(*by_horizon(cell, "mean_queue", first=LONG)))

    columns = [
        Column(f"T={h:,.0f}", {"metric": "mean_queue", "horizon": h})
        for h in rows.of(task=task).unique("horizon")
    ]
    lines = [
        (f"{heading(s)}: {marked(METHODS, n)}", {"task": task, "method": n, **s})
        for s in settings(rows, task, "rho", "kappa")
        for n in policies(task)
    ]
    title = f"{NETWORKS[task]}: mean queue in packets by horizon, and its growth from T = 10⁵"
    columns = [*columns, Column("growth", show=grows)]
    return grid(rows, title, lines, columns, corner="setting: policy")


def utility_tables(rows: Rows) -> list[Table]:
    """Utility and queue over V and T; gaps to both references and growth."""
    lines = [
        (marked(METHODS, n) + ("" if METHODS[n].rate else f", V = T^{v:g}"), {"method": n, "v": v})
        for n in policies(UTILITY)
        for v in rows.of(method=n).unique("v")
    ]
    columns = []
    for h in rows.unique("horizon"):
        columns += [
            Column(f"u, T={h:,.0f}", {"metric": "utility", "horizon": h}),
            Column("queue", {"metric": "mean_queue", "horizon": h}, show=mean(0)),
            Column("slope", {"metric": "quarter_slope", "horizon": h}, show=mean(4)),
        ]
    found = [grid(rows, "Utility task: utility, queue, slope", lines, columns, corner="policy")]
    columns = []
    for title, reference in (("within phases", phase_utility()), ("any", reference_utility())):

        def last(cell: Rows, to: float = reference) -> str:
            return str(mean_ci(gaps(cell, to)[1][:, -1]))

        def falls(cell: Rows, to: float = reference) -> str:
            return law(exponent(*gaps(cell, to)))

        columns.append(Column(f"gap, {title}", show=shown(last)))
        columns.append(Column("∝", show=shown(falls)))
    queue = shown(lambda cell: law(exponent(*by_horizon(cell, "mean_queue"))))
    title = (
        "Utility gap at the longest horizon to the best reference stable within phases "
        f"({phase_utility():.3f}) and over windows of any length ({reference_utility():.3f}), and "
        "growth with T; a dash: above the reference"
    )
    columns.append(Column("queue ∝", show=queue))
    return [*found, grid(rows, title, lines, columns, corner="policy")]


def olo_table(rows: Rows) -> Table:
    """AdaPFOL's ratios next to those of the single step-sizes."""
    of = {"task": OLO, "metric": "ratio"}
    columns = [Column("AdaPFOL", {**of, "method": "adapfol", "step": None})]
    columns += [
        Column(f"0.7·2^{j:g}", {**of, "method": "single", "step": j}, show=mean(2))
        for j in rows.of(**of, method="single").unique("step")
    ]
    lines = [
        (f"{m}, {s} switches", {"magnitude": m, "switches": s})
        for m in MAGNITUDES
        for s in SWITCHES
    ]
    title = "Regret / √((1+P) Σ|l|²) of AdaPFOL and of single step-sizes"
    return grid(rows, title, lines, columns, corner="magnitude")


def tables(rows: Rows) -> list[Table]:
    """The main table, every network, utilities, gaps, AdaPFOL's grid; those that have rows."""
    there = [task for task in NETWORKS if rows.of(task=task)]
    found = [main_table(rows)] if "net-a" in there and not swept(rows, "net-a") else []
    for task in there:
        found.append(horizon_table(rows, task) if swept(rows, task) else network_table(rows, task))
    if utility := rows.of(task=UTILITY):
        found += utility_tables(utility)
    if rows.of(task=OLO):
        found.append(olo_table(rows))
    return found


if __name__ == "__main__":
    report_cli(tables, figures)
