from __future__ import annotations

import importlib.machinery
import math
import re
import sys
import types

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from remadom.errors import InputError
from remadom.eval import figures, layout
from remadom.eval.figures import MOST_GROUPS, PALETTE, draw_embedding, draw_losses
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
    assert pixels(tmp_path / "m.png", figures.MISSING) < 0.05 * pixels(tmp_path / "m.png", PALETTE[0])


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


def test_of_very_many_cells_a_sample_is_drawn_and_said_to_be_one(monkeypatch, drawn, tmp_path):
    monkeypatch.setattr(figures, "MOST_POINTS", 100)
    draw_embedding(XY, {"t": np.arange(300) % 2}, tmp_path / "e.png", "PCA")
    assert [text.get_text() for text in drawn[0].texts] == ["100 drawn at random of 300 cells"]
    assert sum(len(points.get_offsets()) for points in drawn[0].axes[0].collections) == 100


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
    assert len({*PALETTE, figures.OTHER, figures.MISSING}) == MOST_GROUPS + 2


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
    xy, name = plane(z)
    assert name == "UMAP"
    np.testing.assert_array_equal(xy, plane(z).xy)
    centers = np.array([xy[group == g].mean(0) for g in range(3)])
    nearest = np.linalg.norm(xy[:, None] - centers, axis=-1).argmin(1)
    np.testing.assert_array_equal(nearest, group)
