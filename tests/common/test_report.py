"""Tables and figures built from rows."""

import json

import numpy as np
import pytest

from common import plotting, report
from common.methods import Method, Methods
from common.report import Column, Drawing, Panel, Table
from common.rows import Rows
from common.stats import mean_ci

METHODS = Methods(
    Method("mine", "Mine", "method"),
    Method("base", "Base", "baseline"),
    Method("told", "Told", "reference"),
)


def rows():
    found = []
    for m, mean in (("mine", 2.0), ("base", 1.0), ("told", 9.0)):
        for s in range(3):
            base = {"task": "t", "method": m, "seed": s}
            found.append({**base, "metric": "x", "value": mean + s})
            curve = {"step": [1, 2, 4], "value": [mean, mean + s, mean]}
            found.append({**base, "metric": "curve", **curve})
            for calls in (1, 2):
                found.append({**base, "metric": "y", "calls": calls, "value": mean * calls + s})
                found.append({**base, "metric": "z", "calls": calls, "value": mean + calls})
    found.append({"task": "t", "method": "mine", "seed": 0, "metric": "once", "value": 0.12345})
    return Rows(found)


def test_cells():
    assert report.cell(rows().of(method="mine", metric="x")) == str(mean_ci([2, 3, 4]))
    assert report.cell(rows().of(metric="once")) == "0.123"
    assert report.cell(rows().of(metric="no")) == "–"
    assert report.last(rows().of(method="mine", metric="curve")) == "2.00 [2.00, 2.00]"
    assert report.last(rows().of(metric="no")) == "–"
    assert report.mean(1)(rows().of(method="mine", metric="x")) == "3.0"


def test_a_grid_marks_the_best_and_leaves_out_what_was_not_run():
    columns = [Column("x", {"metric": "x"}, "max"), Column("no", {"metric": "no"}, "min")]
    lines = [*report.by_method(METHODS), ("Nobody", {"method": "nobody"})]
    table = report.grid(rows(), "T", lines, columns, corner="method", unmarked=["Told"], main=True)
    assert [line[0] for line in table.rows] == ["Mine", "Base", "Told"]
    marked = [line[1].startswith("**") for line in table.rows]
    assert marked == [True, False, False] and table.rows[0][2] == "–" and table.main
    least = report.grid(rows(), "T", lines, [Column("x", {"metric": "x"}, "min")])
    assert least.rows[1][1].startswith("**")


def test_a_tuning_marks_the_best_setting_of_each_method():
    found = Rows(
        [
            {"task": "t", "metric": "x", "method": m, "seed": s, "lr": lr, "value": v + s % 2}
            for m, losses in (("mine", (3.0, 1.0, 2.0)), ("base", (1.0, 2.0, 3.0)))
            for lr, v in zip((0.1, 0.2, 0.3), losses, strict=True)
            for s in (1000, 1002, 1001)
        ]
    )
    table = report.tuning(found, METHODS, {"metric": "x"}, ["lr"], title="T")
    assert table.columns == ["method", "lr=0.1", "lr=0.2", "lr=0.3"]
    assert table.rows == [["Mine", "3", "**1**", "2"], ["Base", "**1**", "2", "3"]]
    most = report.tuning(found, METHODS, {"metric": "x"}, ["lr"], title="T", best="max")
    assert most.rows[0][1] == "**3**"


PANEL = Panel("t", {"task": "t", "metric": "curve"}, "curve")


def test_figures_are_drawn_where_there_is_something_to_draw():
    none = Panel("none", {"metric": "none"})
    figure = report.curves(rows(), METHODS, [PANEL, none], log="y")
    assert len(figure.axes) == 1 and len(figure.axes[0].lines) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Mine", "Base", "Told"]
    assert report.curves(rows(), METHODS, [none]) is None
    shown = report.intervals(rows(), METHODS, [Panel("x", {"metric": "x"})], thresholds={"x": 1})
    labels = [label.get_text() for label in shown.axes[0].get_yticklabels()]
    assert labels == ["Mine", "Base", "Told"]
    assert report.intervals(rows(), METHODS, [none]) is None
    assert report.heatmaps([]) is None
    assert len(report.heatmaps([("a", np.eye(2)), ("b", np.eye(2))], bar="p").axes) == 3


def test_labels_of_long_abscissae_keep_apart():
    long = Rows(
        [
            {
                **{"task": "t", "method": "mine", "seed": 0, "metric": "curve"},
                **{"step": list(range(0, 17_501, 500)), "value": list(range(36))},
            }
        ]
    )
    figure = report.curves(long, METHODS, [PANEL] * 2, width=3.8)
    figure.canvas.draw()
    for ax in figure.axes:
        boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
        inside = [box for box in boxes if ax.bbox.x0 - 5 <= box.x0 and box.x1 <= ax.bbox.x1 + 25]
        assert all(a.x1 + 5 < b.x0 for a, b in zip(inside, inside[1:], strict=False))


@pytest.mark.parametrize("panels", [1, 3])
def test_a_legend_is_never_wider_than_its_figure(panels):
    figure, axes = plotting.panels(1, panels, width=2.7)
    lines = {f"a method with a long name {i}": axes[0, 0].plot([0, 1])[0] for i in range(4)}
    report.legend_below(figure, lines)
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 4
    assert legend.get_window_extent().width <= figure.bbox.width


def test_a_curve_can_be_drawn_against_what_its_steps_spend():
    found = rows().frame.to_dict("records")
    spent = {"task": "t", "method": "mine", "metric": "calls", "value": 400.0}
    calls = [{**spent, "seed": s} for s in range(3)]
    against = Panel("t", {"task": "t", "metric": "curve"}, "curve", against="calls", log="x")
    figure = report.curves(Rows([*found, *calls]), METHODS, [PANEL, against])
    first, second = figure.axes[:2]
    assert first.lines[0].get_xdata().tolist() == [1, 2, 4] and first.get_xlabel() == "step"
    assert second.lines[0].get_xdata().tolist() == [100, 200, 400]
    assert len(second.lines) == 1 and second.get_xscale() == "log"  # the others spend nothing
    assert second.get_xlabel() == "calls"


def test_seeds_logged_at_different_steps_are_drawn_where_all_of_them_were():
    row = {"task": "t", "method": "mine", "metric": "curve"}
    found = Rows(
        [
            {**row, "seed": 0, "step": [0, 10, 20], "value": [0.0, 1.0, 2.0]},
            {**row, "seed": 1, "step": [0, 5, 18], "value": [0.0, 1.0, 1.0]},
        ]
    )
    (line,) = report.curves(found, METHODS, [PANEL]).axes[0].lines
    assert line.get_xdata().tolist() == [0, 5, 10, 18]
    assert np.allclose(line.get_ydata(), [0, 0.75, 1, 1.4])


def test_a_frontier_has_a_line_per_method_along_a_label():
    pair = (Panel("t", {"metric": "y"}, "y"), Panel("t", {"metric": "z"}, "z"))
    figure = report.frontier(rows(), METHODS, [pair], along="calls")
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert len(lines) == 3 and all(len(line.get_xdata()) == 2 for line in lines)
    assert report.frontier(rows(), METHODS, [(Panel("", {"metric": "no"}), pair[1])]) is None


def test_growth_says_its_law():
    figure, axes = report.axes_for(1, 1, 3.0)
    t = np.array([10.0, 100.0, 1000.0])
    curves = np.sqrt(t) * np.array([[1.0], [1.1], [0.9]])
    law = report.growth(axes[0], t, curves, "mine", "C0", "T")
    assert law.startswith("T^0.50 [0.50, 0.50]") and axes[0].get_xscale() == "log"


def test_a_report_is_strict_json():
    drawing = Drawing(report.curves(rows(), METHODS, [PANEL]), "what is drawn", main=True)
    table = Table("T", ["a", "b"], [[np.float64(1.5), float("nan")]], main=True)
    made = report.report([table], {"curves": drawing})
    json.dumps(made, allow_nan=False)
    assert made["figures"] == [{"name": "curves", "caption": "what is drawn", "main": True}]
    assert made["tables"][0]["rows"] == [[1.5, "nan"]]


@pytest.fixture(autouse=True)
def closed():
    yield
    from common.plotting import plt

    plt.close("all")
