from __future__ import annotations

import importlib.machinery
import math
import re
import subprocess
import sys
import types

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from remadom.errors import InputError
from remadom.eval import layout
from remadom.eval.figures import (
    MOST_GROUPS,
    PALETTE,
    Intervals,
    calibration,
    draw_calibration,
    draw_confusion,
    draw_degrees,
    draw_embedding,
    draw_imputation,
    draw_losses,
    draw_mosaic,
    draw_scores,
    draw_sweep,
    drawing,
    embedding,
    imputation,
)
from remadom.eval.layout import plane

XY = np.random.default_rng(0).normal(size=(300, 2))


@pytest.fixture
def drawn(monkeypatch):
    """Figures in place of their files."""
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: kept.append(figure))
    return kept


def words(path):
    """All text of an SVG: matplotlib notes it beside the outlines."""
    return re.findall(r"<!-- (.*?) -->", path.read_text(), re.DOTALL)


def pixels(path, color):
    image = imread(path)[..., :3]
    return int((np.abs(image - matplotlib.colors.to_rgb(color)).max(-1) < 0.02).sum())


def epoch(number, loss, **more):
    return {"epoch": number, "train": {"elbo.loss": loss, "elbo.kl": 1.0, **more}}


def test_losses_of_training_and_validation_are_drawn_term_by_term(drawn, tmp_path):
    history = [
        epoch(n, 10.0 / n, **{"elbo.recon.rna": 3.0}) | {"val": {"elbo.loss": 12.0 / n}} for n in (1, 2, 3)
    ]
    history[1]["val"]["elbo.loss"] = None
    draw_losses(history, tmp_path / "losses.png")
    main, *small = drawn[0].axes
    assert main.get_title(loc="left") == "elbo.loss"
    assert [axes.get_title(loc="left") for axes in small] == ["elbo.kl", "elbo.recon.rna"]
    train, val = main.lines
    np.testing.assert_allclose(train.get_xydata(), [[1, 10], [2, 5], [3, 10 / 3]])
    np.testing.assert_allclose(val.get_xydata(), [[1, 12], [2, np.nan], [3, 4]])
    assert [len(axes.lines) for axes in small] == [1, 1]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["training", "validation"]


@pytest.mark.parametrize(
    "history",
    [
        [],
        [epoch(1, 5.0)],
        [epoch(1, 5.0) | {"val": {}}, epoch(2, math.nan), epoch(3, -math.inf)],
        [epoch(1, None), epoch(2, None)],
        [epoch(n, 1e6 * 0.5**n, **{"$x_{": 1e-9, "_late\nname" * 20: None}) for n in range(60)],
        [epoch(n, -5e7 - n) for n in range(4)],
    ],
    ids=["none", "one", "broken", "missing", "odd names", "negative"],
)
def test_any_history_is_drawn(history, tmp_path):
    draw_losses(history, tmp_path / "new" / "losses.png")
    assert imread(tmp_path / "new" / "losses.png").shape[1] == 1350
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["losses.png"]


def test_a_steep_loss_has_a_logarithmic_axis(drawn, tmp_path):
    draw_losses([epoch(n, 1e4 / n**2) for n in range(1, 9)], tmp_path / "l.png")
    draw_losses([epoch(n, 1e4 - n) for n in range(1, 9)], tmp_path / "l.png")
    assert [figure.axes[0].get_yscale() for figure in drawn] == ["log", "linear"]


def test_labels_are_shown_as_they_are(tmp_path):
    labels = [
        "$\\alpha_$",
        "</script><img onerror=alert(1)>",
        "_γδ T 細胞",
        "a\nb\x00\udc80",
        "&amp;",
        "{}%s\\n",
    ]
    draw_embedding(XY, {"$x_{": np.resize(labels, 300)}, tmp_path / "e.svg", "UMAP $")
    shown = words(tmp_path / "e.svg")
    expected = {"$\\alpha_$", "_γδ T 細胞", "a b", "$x_{", "UMAP $ 1", "UMAP $ 2", "300 cells"}
    assert expected <= {word.strip() for word in shown}


def test_very_long_names_are_cut_in_the_middle(tmp_path):
    draw_embedding(
        XY, {"type": ["T cell " + "very " * 30 + f"{n % 2}" for n in range(300)]}, tmp_path / "e.svg", "PCA"
    )
    names = [word for word in words(tmp_path / "e.svg") if word.startswith("T cell")]
    assert len(set(names)) == 2
    assert all(len(name) == 28 and "…" in name for name in names)


def test_the_largest_categories_keep_their_color_and_the_others_share_one(drawn, tmp_path):
    sizes = np.r_[np.full(MOST_GROUPS, 9), 1, 2, 3]
    draw_embedding(XY[: sizes.sum()], {"t": np.repeat(np.arange(33), sizes)[:300]}, tmp_path / "e.png", "PCA")
    names = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert names == [*map(str, range(MOST_GROUPS)), "other (3 smaller)"]


def test_categories_come_in_the_order_of_a_reader(drawn, tmp_path):
    values = np.resize(["batch10", "Batch2", "batch1", "alpha", "Zeta", None, float("nan")], 300)
    draw_embedding(XY, {"t": values}, tmp_path / "e.png", "PCA")
    names = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert names == ["alpha", "batch1", "Batch2", "batch10", "Zeta", "no value (85 cells)"]


def test_no_category_hides_another_and_cells_without_value_lie_below(tmp_path):
    twice = np.r_[XY, XY]
    draw_embedding(twice, {"t": np.repeat(["a", "b"], 300)}, tmp_path / "e.png", "PCA")
    a, b = (pixels(tmp_path / "e.png", color) for color in PALETTE[:2])
    assert 0.7 < a / b < 1.4
    draw_embedding(twice, {"t": np.repeat(["a", None], 300)}, tmp_path / "m.png", "PCA")
    assert pixels(tmp_path / "m.png", drawing.MISSING) < 0.05 * pixels(tmp_path / "m.png", PALETTE[0])


def test_legends_lie_outside_of_the_panels_and_inside_of_the_figure(drawn, tmp_path):
    long = [f"a rather long name of a cell type, number {n % 33}" for n in range(300)]
    columns = {"modalities": ["rna"] * 300, "type": long, "batch": np.arange(300) % 12}
    draw_embedding(XY, columns, tmp_path / "e.png", "PCA")
    (figure,) = drawn
    renderer = FigureCanvasAgg(figure).get_renderer()
    panels = [axes.get_window_extent(renderer) for axes in figure.axes]
    legends = [axes.get_legend().get_window_extent(renderer) for axes in figure.axes]
    assert len(panels) == 3
    for legend in legends:
        assert not any(legend.overlaps(panel) for panel in panels)
        assert sum(legend.overlaps(other) for other in legends) == 1
        assert legend.x1 <= figure.bbox.x1
        assert legend.y0 >= 0
    for panel in panels:
        assert panel.width == pytest.approx(panel.height)


def test_points_are_pixels_also_in_a_drawing_of_lines(tmp_path):
    draw_embedding(np.tile(XY, (20, 1)), {"t": ["a"] * 6000}, tmp_path / "e.svg", "PCA")
    assert "<image" in (tmp_path / "e.svg").read_text()
    assert (tmp_path / "e.svg").stat().st_size < 300_000


def test_very_many_cells_are_drawn_by_density_in_the_color_of_most(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    place = np.repeat([0, 1, 2], [2000, 1500, 500])
    xy = np.array([[0, 0], [10, 0], [5, 10]])[place] + rng.normal(0, 0.1, (4000, 2))
    values = np.where(rng.random(4000) < 0.7, "most", "least").astype(object)
    values[place == 2] = None
    values[place == 1] = np.where(values[place == 1] == "most", None, "least")
    monkeypatch.setattr(drawing, "MOST_POINTS", 100)
    monkeypatch.setattr(embedding, "BINS", 20)
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: kept.append(figure))
    draw_embedding(xy, {"t": values}, tmp_path / "e.png", "PCA")
    (figure,) = kept
    assert figure.texts[0].get_text().startswith("4,000 cells; the color of most of the cells in each place")
    image = figure.axes[0].images[0].get_array()
    drawn = image[image[..., 3] > 0]
    left, right, top = image[:8, :10], image[:8, 10:], image[10:]
    for part, color in ((left, PALETTE[1]), (right, PALETTE[0]), (top, drawing.MISSING)):
        seen = part[part[..., 3] > 0][:, :3]
        share = np.isclose(seen, matplotlib.colors.to_rgb(color)).all(1).mean()
        assert share > 0.7, color
    assert len(drawn) < 80
    strongest = np.unravel_index(image[..., 3].argmax(), (20, 20))
    assert strongest[0] < 4
    assert strongest[1] < 4, "the place with most cells"


@pytest.mark.parametrize("n_cells", [0, 1])
def test_hardly_any_cells_are_drawn(n_cells, tmp_path):
    draw_embedding(XY[:n_cells], {"a": [None] * n_cells, "b": ["x"] * n_cells}, tmp_path / "e.png", "PCA")
    assert (tmp_path / "e.png").exists()


@pytest.mark.parametrize(
    ("xy", "columns", "message"),
    [
        (np.zeros((4, 3)), {"t": ["a"] * 4}, r"shape \(4, 3\)"),
        (np.full((4, 2), np.nan), {"t": ["a"] * 4}, "expected finite ones"),
        (np.zeros((4, 2)), {"t": ["a"] * 3}, "columns of 4 values, found {'t': 3}"),
        (np.zeros((4, 2)), {}, "found no column"),
    ],
)
def test_wrong_input_says_what_is_wrong(xy, columns, message, tmp_path):
    with pytest.raises(InputError, match=message):
        draw_embedding(xy, columns, tmp_path / "e.png", "PCA")


def test_a_figure_is_replaced_when_the_new_one_is_complete(monkeypatch, tmp_path):
    draw_losses([epoch(1, 2.0)], tmp_path / "l.png")
    before = (tmp_path / "l.png").read_bytes()

    def fail(figure, file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        draw_losses([epoch(1, 3.0)], tmp_path / "l.png")
    assert (tmp_path / "l.png").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_settings_of_matplotlib_stay_and_the_same_input_gives_the_same_file(tmp_path):
    settings = dict(matplotlib.rcParams)
    for name in ("a.png", "b.png"):
        draw_embedding(XY, {"t": np.arange(300) % 5}, tmp_path / name, "PCA")
    assert dict(matplotlib.rcParams) == settings
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_every_category_has_a_color_of_its_own():
    assert len({*PALETTE, drawing.OTHER, drawing.MISSING}) == MOST_GROUPS + 2


def panels(figure):
    return {
        axes.get_title(loc="left").split("\n")[0]: axes for axes in figure.axes if axes.get_title(loc="left")
    }


def test_the_best_the_median_and_the_worst_features_have_a_panel(drawn, tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4000, 21))
    noise = np.geomspace(0.02, 8, 21)
    order = rng.permutation(21)
    predicted = truth + noise[order] * rng.normal(size=(4000, 21))
    truth[:, 20], predicted[3, 0] = 1.0, np.nan
    draw_imputation(
        truth, predicted, tmp_path / "i.png", features=[f"$f{at}" for at in range(21)], title="ADT"
    )
    ranked = [f"$f{at}" for at in np.argsort(order) if at != 20]
    shown = list(panels(drawn[0]))
    assert shown[0] == "ADT, all cells"
    assert set(shown[1:4]) == set(ranked[:3])
    assert set(shown[7:]) == set(ranked[-3:])
    assert set(shown[4:7]) == set(ranked[8:11])
    main = panels(drawn[0])["ADT, all cells"]
    here = np.isfinite(predicted)
    r = np.corrcoef(truth[here], predicted[here])[0, 1]
    rmse = math.sqrt(((truth - predicted)[here] ** 2).mean())
    assert main.get_title(loc="left").endswith(f"Pearson {r:.3f}, RMSE {rmse:.3f}")
    assert main.images[0].get_array().sum() == here.sum()
    assert [axes.get_ylabel() for axes in drawn[0].axes if axes.get_ylabel() in ("best", "median", "worst")]


def test_predictions_equal_to_the_truth_lie_on_the_line(drawn, tmp_path):
    truth = np.random.default_rng(0).normal(size=(50, 2))
    draw_imputation(truth, truth, tmp_path / "i.png")
    counts = drawn[0].axes[0].images[0].get_array()
    assert counts.sum() == np.trace(counts) == 100
    assert "Pearson 1.000, RMSE 0.000" in drawn[0].axes[0].get_title(loc="left")


@pytest.mark.parametrize(("cells", "features"), [(0, 5), (1, 1), (7, 1), (5, 0), (6, 2)])
def test_any_number_of_held_out_values_is_drawn(cells, features, tmp_path):
    truth = np.arange(cells * features, dtype=float).reshape(cells, features)
    draw_imputation(truth, truth * 0, tmp_path / "i.png")
    assert (tmp_path / "i.png").exists()


def test_of_too_many_values_some_cells_are_drawn_and_all_are_scored(monkeypatch, drawn, tmp_path):
    monkeypatch.setattr(imputation, "MOST_VALUES", 100)
    truth = np.random.default_rng(0).normal(size=(60, 5))
    draw_imputation(truth, truth + 1, tmp_path / "i.png")
    title = drawn[0].axes[0].get_title(loc="left")
    assert title == "20 of 60 cells\nPearson 1.000, RMSE 1.000"
    assert drawn[0].axes[0].images[0].get_array().sum() == 100


def test_intervals_that_are_missed_are_marked(drawn, tmp_path):
    truth, zero = np.array([0.0, 0.5, 3.0, -2.0]), np.zeros(4)
    given = Intervals(truth, zero, zero - 1, zero + 1, 0.5)
    draw_calibration([0.5, 0.9], [0.5, 0.8], tmp_path / "c.png", intervals=given, title="$ADT")
    curve, intervals = drawn[0].axes
    np.testing.assert_allclose(curve.lines[1].get_xydata(), [[50, 50], [90, 80]])
    assert intervals.get_title(loc="left") == "50% intervals hold 50.0% of 4 values"
    inside, outside = intervals.collections[1:]
    assert sorted(inside.get_offsets()[:, 1]) == [0, 0.5]
    assert sorted(outside.get_offsets()[:, 1]) == [-2, 3]
    assert inside.get_paths()[0].vertices.shape != outside.get_paths()[0].vertices.shape, "not by color alone"
    legend = intervals.get_legend()
    assert [text.get_text() for text in legend.get_texts()][2:] == ["measured, inside", "measured, outside"]


def test_a_sample_of_intervals_is_drawn_in_the_order_of_the_predictions(monkeypatch, drawn, tmp_path):
    monkeypatch.setattr(calibration, "MOST_INTERVALS", 20)
    guess = np.random.default_rng(0).normal(size=(40, 3))
    draw_calibration(
        [0.9], [0.9], tmp_path / "c.png", intervals=Intervals(guess, guess, guess - 1, guess + 1)
    )
    line = drawn[0].axes[1].lines[0].get_ydata()
    assert len(line) == 20
    assert (np.diff(line) >= 0).all()
    draw_calibration([], [], tmp_path / "c.png", intervals=Intervals(*np.zeros((4, 0))))


def test_the_best_method_is_named_and_its_bar_is_as_long_as_its_score(drawn, tmp_path):
    scores = {"ADT": {"remadom": 0.5, "kNN": 0.25, "$x": None}, "RNA": {"remadom": math.nan}}
    draw_scores(scores, tmp_path / "s.png", name="RMSE", better="lower")
    bars, nothing = drawn[0].axes
    assert [bar.get_width() for bar in bars.patches] == [0.5, 0.25, 0]
    assert [text.get_text().strip() for text in bars.texts] == ["0.500", "0.250 best", "none"]
    assert [text.get_text() for text in bars.get_yticklabels()] == ["remadom", "kNN", "$x"]
    assert not any(text.get_parse_math() for text in bars.get_yticklabels())
    assert bars.patches[0].get_facecolor() != bars.patches[1].get_facecolor()
    assert [text.get_text() for text in nothing.texts] == ["no method has a score"]


def test_a_sweep_has_the_mean_and_the_spread_of_its_seeds(drawn, tmp_path):
    errors = {"remadom": np.array([[1, 2], [3, np.nan]]), "$mean": np.array([[4, 4]])}
    draw_sweep([0.1, 0.9], errors, tmp_path / "s.png", title="ADT")
    (axes,) = drawn[0].axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[10, 2], [90, 2]])
    assert axes.collections[0].get_paths()[0].get_extents().y0 == 1
    assert axes.collections[0].get_paths()[0].get_extents().y1 == 3
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()
    assert axes.get_title(loc="left") == "ADT: mean of 2 seeds, from least to greatest"


def test_every_cell_is_in_a_bar_of_the_degrees(drawn, tmp_path):
    degrees = {"RNA": np.array([0, 0, 1, 2, 2, 3]), "$ATAC": np.array([0, 1, 5, 400]), "none": np.zeros(0)}
    draw_degrees(degrees, tmp_path / "d.png")
    few, many, none = drawn[0].axes
    assert [bar.get_height() for bar in few.patches] == [2, 1, 2, 1]
    assert [text.get_text() for text in few.get_xticklabels()] == ["0", "1", "2", "3"]
    assert sum(bar.get_height() for bar in many.patches) == 4
    assert [text.get_text() for text in many.get_xticklabels()][-1] == "256-511"
    assert many.patches[-1].get_height() == 1
    assert few.get_title(loc="left") == "RNA\n4 of 6 cells have an edge; median 2, most 3"
    assert none.get_title(loc="left") == "none\n0 of 0 cells have an edge"


def test_rows_of_a_confusion_are_shares_of_the_true_label(drawn, tmp_path):
    true = ["B", "B", "B", "T10", "T2", None, "B"]
    given = ["B", "B", "T2", "T2", "T2", "B", np.nan]
    draw_confusion(true, given, tmp_path / "c.png", title="RNA to ADT")
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["B (3)", "T2 (1)", "T10 (1)"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["B", "T2", "T10"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 1, 0]])
    assert axes.get_title(loc="left") == "RNA to ADT\n5 cells, 60.0% given their own label"


def test_many_labels_of_a_confusion_share_a_row(drawn, tmp_path):
    true = np.r_[np.repeat(np.arange(30), 5), 30, 31, 32]
    draw_confusion(true, np.r_[true[:-1], 0], tmp_path / "c.png")
    shares = drawn[0].axes[0].images[0].get_array()
    assert shares.shape == (31, 31)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert shares[30, 30] == pytest.approx(2 / 3)
    assert drawn[0].axes[0].get_yticklabels()[-1].get_text() == "other (3 smaller) (3)"
    draw_confusion([None], ["a"], tmp_path / "c.png")
    assert drawn[1].axes[0].texts[0].get_text() == "no cell has both labels"


def test_what_was_not_measured_is_empty_in_a_mosaic(drawn, tmp_path):
    draw_mosaic(np.array([[1200, 0], [3, 4]]), ["$a", "b"], ["RNA", "ADT"], tmp_path / "m.png")
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ["1,200", "none", "3", "4"]
    assert [bool(box.get_hatch()) for box in axes.patches] == [False, True, False, False]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["$a", "b"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: draw_imputation(np.ones((3, 2)), np.ones((3, 3)), path), r"truth \(3, 2\), predicted"),
        (lambda path: draw_imputation(np.ones((3, 2)), np.ones((3, 2)), path, features=["a"]), "and 1 names"),
        (lambda path: draw_calibration([0.5], [0.5, 0.6], path), r"nominal \(1,\), measured \(2,\)"),
        (lambda path: draw_scores({}, path, name="RMSE"), "no target with a RMSE"),
        (lambda path: draw_sweep([0.1], {"a": np.ones((2, 3))}, path), r"'a': \(2, 3\)"),
        (lambda path: draw_degrees({"a": np.array([-1])}, path), "0 or more"),
        (lambda path: draw_confusion(["a"], [], path), "1 true and 0 given"),
        (lambda path: draw_mosaic(np.ones((2, 2)), ["a"], ["RNA", "ADT"], path), "1 cohorts x 2 modalities"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(draw, message, tmp_path):
    with pytest.raises(InputError, match=message):
        draw(tmp_path / "f.png")
    assert not (tmp_path / "f.png").exists()


def test_new_figures_are_written_without_a_warning(tmp_path):
    """Layout and glyphs are settled while a file is written."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 12))
    names = ["細胞$_x", *map(str, range(11))]
    draw_imputation(values, values + 0.1, tmp_path / "1.png", features=names, title="細胞")
    draw_calibration([0.5, 0.9], [0.4, 0.95], tmp_path / "2.svg", intervals=Intervals(*[values] * 4))
    draw_scores({"細胞": {"remadom": 1.0, "$m_": -1.0}}, tmp_path / "3.pdf", name="Pearson")
    draw_sweep([0.1, 0.5], {"$m_細": np.ones((2, 2))}, tmp_path / "4.png")
    draw_degrees({"細": rng.poisson(9, 90)}, tmp_path / "5.png")
    draw_confusion(["細", "$b_"], ["$b_", "$b_"], tmp_path / "6.png", title="細")
    draw_mosaic(np.eye(2), ["細", "$b_"], ["RNA", "$b_"], tmp_path / "7.png", title="細$")
    assert len(list(tmp_path.iterdir())) == 7


@pytest.fixture
def fake_umap(monkeypatch):
    """Stands for umap-learn; notes how it was called and mirrors its start."""
    calls = []

    class UMAP:
        def __init__(self, **settings):
            calls.append(settings)

        def fit_transform(self, z):
            assert len(z) == len(calls[-1]["init"])
            return -calls[-1]["init"]

    module = types.ModuleType("umap")
    module.__spec__ = importlib.machinery.ModuleSpec("umap", None)
    module.UMAP = UMAP
    monkeypatch.setitem(sys.modules, "umap", module)
    return calls


def test_umap_is_used_where_it_is_installed(fake_umap):
    xy, name = plane(np.random.default_rng(0).normal(size=(80, 5)), seed=7)
    assert (name, xy.shape) == ("UMAP", (80, 2))
    assert fake_umap[0]["random_state"] == 7
    assert np.abs(xy).max() == pytest.approx(10)


@pytest.mark.parametrize("z", [np.ones((80, 3)), np.arange(80.0)[:, None], np.eye(20), np.zeros((0, 3))])
def test_few_cells_and_cells_on_a_line_are_laid_out_by_pca(fake_umap, z):
    xy, name = plane(z)
    assert (name, xy.shape) == ("PCA", (len(z), 2))
    assert not fake_umap


def test_very_many_cells_are_laid_out_by_pca(fake_umap, monkeypatch):
    monkeypatch.setattr(layout, "UMAP_CELLS", (50, 60))
    assert plane(np.random.default_rng(0).normal(size=(61, 5))).name == "PCA"


def test_without_umap_the_principal_components_are_drawn(monkeypatch, caplog):
    monkeypatch.setattr(layout.importlib.util, "find_spec", lambda name: None)
    z = np.random.default_rng(0).normal(size=(80, 5)) * [5, 1, 3, 1, 1] + 1e5
    with caplog.at_level("INFO"):
        xy, name = plane(z)
    assert name == "PCA"
    assert "remadom[eval]" in caplog.text
    u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(xy), np.abs(u[:, :2] * s[:2]), atol=1e-4)


def test_a_plane_of_nan_is_refused():
    with pytest.raises(InputError, match="1 of 60 cells have NaN"):
        plane(np.where(np.arange(180).reshape(60, 3) == 5, np.nan, 1.0))


@pytest.mark.slow
def test_umap_as_installed_keeps_groups_apart_and_follows_the_seed():
    pytest.importorskip("umap.umap_", exc_type=ImportError)
    group = np.arange(120) % 3
    z = np.random.default_rng(0).normal(size=(120, 6)) + 20 * np.eye(6)[group]
    before = torch.get_num_threads()
    xy, name = plane(z)
    assert torch.get_num_threads() == before
    assert name == "UMAP"
    np.testing.assert_array_equal(xy, plane(z).xy)
    centers = np.array([xy[group == g].mean(0) for g in range(3)])
    nearest = np.linalg.norm(xy[:, None] - centers, axis=-1).argmin(1)
    np.testing.assert_array_equal(nearest, group)


def test_where_umap_cannot_be_imported_the_principal_components_are_drawn(monkeypatch, caplog):
    def refused():
        raise RuntimeError("cannot cache function 'rdist': no locator available")

    monkeypatch.setattr(layout.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(layout, "_umap_class", refused)
    assert plane(np.random.default_rng(0).normal(size=(80, 5))).name == "PCA"
    assert "no locator available" in caplog.text


@pytest.mark.slow
def test_what_umap_compiles_is_kept_for_the_next_process():
    """Of two processes the second finds the machine code of the first, and lays out the same."""
    pytest.importorskip("umap.umap_", exc_type=ImportError)
    lines = (
        "import numpy as np",
        "from remadom.eval.layout import plane",
        "xy = plane(np.random.default_rng(0).normal(size=(60, 4)), 'umap').xy",
        "from umap.layouts import _nb_optimize_layout_euclidean_single_epoch as compiled",
        "print(sum(compiled.stats.cache_hits.values()), float(np.abs(xy).sum()))",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    said = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(2)
    ]
    assert said[1][0] == "1"
    assert said[0][1] == said[1][1]


@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_a_layout_that_is_asked_for_is_not_limited_by_the_number_of_cells(method, fake_umap, monkeypatch):
    monkeypatch.setattr(layout, "UMAP_CELLS", (50, 60))
    z = np.random.default_rng(0).normal(size=(70, 5))
    assert plane(z, method).name == {"umap": "UMAP", "tsne": "t-SNE"}[method]
    assert plane(z[:20], method).xy.shape == (20, 2)
    assert plane(z[:9], method).name == "PCA"
    assert plane(z, "pca").name == "PCA"


def test_tsne_keeps_groups_apart_and_follows_the_seed():
    group = np.arange(60) % 3
    z = np.random.default_rng(0).normal(size=(60, 6)) + 20 * np.eye(6)[group]
    xy, name = plane(z, "tsne", seed=3)
    assert (name, xy.shape) == ("t-SNE", (60, 2))
    np.testing.assert_array_equal(xy, plane(z, "tsne", seed=3).xy)
    centers = np.array([xy[group == g].mean(0) for g in range(3)])
    np.testing.assert_array_equal(np.linalg.norm(xy[:, None] - centers, axis=-1).argmin(1), group)


def test_a_layout_that_cannot_be_is_refused(monkeypatch):
    with pytest.raises(InputError, match="layout 'umpa' does not exist: did you mean 'umap'"):
        plane(np.eye(20), "umpa")
    monkeypatch.setattr(layout.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="umap-learn"):
        plane(np.random.default_rng(0).normal(size=(80, 5)), "umap")
