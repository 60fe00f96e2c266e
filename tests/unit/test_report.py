from __future__ import annotations

import base64
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing

from remadom.errors import InputError
from remadom.eval.report import (
    Code,
    Figure,
    Gallery,
    Report,
    Section,
    Table,
    Text,
    Verdict,
    headline,
    plain,
    render_report,
    shown,
    write_comparison,
    write_report,
)
from remadom.eval.report.measures import MEASURES, measure

BAD = "</script><img onerror=alert(1)>\"'&amp;{{ 7 * 7 }}<!--"


class Page(HTMLParser):
    """Elements with their attributes, and the text of a page."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text = [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "losses.png"
    Drawing(figsize=(1, 1)).savefig(path)
    return path


def full(picture, text="some text"):
    tables = [
        Table(text, ["score", text], [[text, 0.51234567], ["n_cells", 12345]]),
        Table("empty", ["a", "b"], []),
    ]
    return Report(
        title=text,
        verdicts=[Verdict("partly", [text], name="run")],
        lines=["Batches mix."],
        sections=[
            Section("Numbers", tables),
            Section("Figures", [Figure(text, picture, text), Gallery("empty", [])]),
            Section("Notes", [Text(text, warning=True)]),
            Section("Configuration", [Code(f"data:\n  path: {text}\n")], folded=True),
            Section("Versions", [Table("Packages", ["", "version"], [["remadom", text]])], folded=True),
            Section("Nothing", [Table("empty", ["a"], [])]),
        ],
    )


def test_everything_given_is_in_the_page(picture, tmp_path):
    render_report(full(picture), tmp_path / "deep" / "report.html")
    page = Page(tmp_path / "deep" / "report.html")
    assert sum(text.strip() == "some text" for text in page.text) == 10
    for text in ("Batches mix.", "0.5123", "12,345", "n_cells", "remadom", "data:\n  path: some text\n"):
        assert text in page.text
    (image,) = page.all("img")
    kind, content = image["src"].split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == picture.read_bytes()


def test_text_from_the_data_stays_text(picture, tmp_path):
    render_report(full(picture, BAD), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert sum(text.strip() == BAD for text in page.text) == 10
    assert not page.all("script")
    (image,) = page.all("img")
    assert set(image) == {"src", "alt"}
    assert image["alt"] == f"{BAD}. {BAD}"
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_the_page_asks_for_nothing(picture, tmp_path):
    render_report(full(picture, "https://example.org/x.png"), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    (policy,) = (
        meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert page.elements.index(("meta", {"http-equiv": "Content-Security-Policy", "content": policy})) < 4
    addresses = [
        value for _, a in page.elements for name, value in a.items() if name in ("src", "href", "srcset")
    ]
    assert len(addresses) == 2
    assert all(address.startswith("data:") for address in addresses)
    assert "url(" not in page.source
    assert "@import" not in page.source


def test_a_page_can_be_read_aloud_and_folded(picture, tmp_path):
    render_report(full(picture), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.all("html") == [{"lang": "en"}]
    assert [len(page.all(tag)) for tag in ("h1", "main", "details", "summary", "h2")] == [1, 1, 5, 5, 5]
    assert {attributes.get("scope") for attributes in page.all("th")} == {"col", "row"}
    assert all(image["alt"] for image in page.all("img"))
    names = [
        attributes["aria-labelledby"] for attributes in page.all("table") if "aria-labelledby" in attributes
    ]
    assert names == [heading["id"] for heading in page.all("h3") if "id" in heading]


def test_numbers_stand_under_their_heading(picture, tmp_path):
    table = Table("t", ["name", "number", "mixed", "text"], [["a", 1.5, None, "x"], ["b", None, "y", "z"]])
    render_report(Report("r", sections=[Section("s", [table])]), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert [a.get("class") for a in page.all("th") if a["scope"] == "col"] == [None, "number", None, None]
    assert [a.get("class") for a in page.all("td")] == ["number", "number", None, "number", None, None]


def test_sections_without_content_are_left_out(tmp_path):
    render_report(Report("bare"), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert not page.all("details")
    assert not page.all("section")


def test_any_character_can_be_written(tmp_path):
    render_report(Report("細胞 \udc80 🧬", lines=["\x07"]), tmp_path / "report.html")
    assert "細胞 ? 🧬" in Page(tmp_path / "report.html").text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (1234.56, "1,235"),
        (98765.4, "98,765"),
        (-123456.7, "-123,457"),
        (1e-7, "1e-07"),
        (3e21, "3,000,000,000,000,000,000,000"),
        (float("inf"), "inf"),
        (np.float32(0.5), "0.5"),
        (np.int64(4000), "4,000"),
        (True, "yes"),
        (np.bool_(False), "no"),
        (None, "—"),
        (np.nan, "—"),
        ("rna", "rna"),
    ],
)
def test_values_as_a_reader_wants_them(value, text):
    assert shown(value) == text


def holding(part):
    return Report("r", sections=[Section("s", [part])])


def test_what_cannot_be_shown_is_an_error_and_writes_nothing(picture, tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    for report, message in (
        (holding(Figure("f", tmp_path / "gone.png", "")), "gone.png does not exist"),
        (holding(Figure("f", text, "")), "notes.png is not a PNG file"),
        (holding(Table("t", ["a", "b"], [[1, 2], [3]])), "'t' has 2 columns, and a row of 1"),
    ):
        with pytest.raises(InputError, match=message):
            render_report(report, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_best_values_and_the_verdicts_are_told_apart_without_color(tmp_path):
    words = ("aligned", "partly", "not", "unknown", BAD)
    table = Table("t", ["", "a", "b"], [["x", 1, 2]], frozenset({(0, 2)}))
    verdicts = [Verdict(word, ["Because."]) for word in words]
    render_report(Report("r", verdicts=verdicts, sections=[Section("s", [table])]), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert [a["class"] for a in page.all("section")] == [
        "verdict aligned", "verdict partly", "verdict not", "verdict unknown", "verdict unknown",
    ]  # fmt: skip
    said = [verdict.sign + verdict.title for verdict in verdicts]
    assert len(set(said)) == 4
    assert "".join(page.text).count("The cohorts are not aligned") == 1
    assert "2 ★" in page.text
    assert "1 ★" not in page.text


COUNTS = {"pearson": 0.5, "rmse": 0.4, "spearman": 0.3}


def metrics(**evaluation):
    return {
        "run": {
            "data": f"/data/{BAD}.h5mu",
            "n_cells": 100,
            "modalities": {"rna": {"cells": 100, "features": 50}, "adt": {"cells": 60, "features": 7}},
            "stopped": "finished all 3 epochs",
        },
        "train": {"elbo.loss": 10.0, "elbo.recon.rna": 6.0},
        "val": {"elbo.loss": 11.0, "elbo.recon.rna": 7.0},
        "evaluation": evaluation,
    }


def of_adt(**baselines):
    held = {"n_cells": 40, "n_features": 7, "from": ["rna"], "held_out": BAD, "coverage_90": 0.8734}
    return {"adt": {**held, **COUNTS, "baselines": baselines}}


def test_sentences_of_what_was_measured():
    integration = {"knn_purity": 0.9, "knn_purity_chance": 0.25, "ilisi": 0.05, "nmi": 0.8, "ari": 0.7}
    integration |= {"clustering": "leiden", "total": 0.66, "bio": 0.7, "batch": 0.6, "kbet": None}
    pair = {
        "n_cells": 9,
        "foscttm": 0.1,
        "label_transfer_rna_to_adt": 0.75,
        "label_transfer_adt_to_rna": None,
    }
    found = metrics(
        integration=integration,
        modalities={"rna-adt": pair},
        imputation={
            **of_adt(mean={"pearson": 0.0, "rmse": 0.6}, knn={"pearson": 0.6, "rmse": 0.5, "spearman": 0.4}),
            "atac": {"rmse": 1.0, "auroc_cell": 0.8, "baselines": {"mean": {"auroc_cell": 0.7, "rmse": 1.5}}},
            "rna": {"rmse": 0.25, "pearson": 0.5},
        },
        trust={"verdict": "not", "words": ["They are not aligned."]},
    )
    assert headline(found) == [
        "They are not aligned.",
        "90.0% of a cell's 15 nearest cells share its label (chance: 25.0%).",
        "Clusters (leiden) agree with the labels: NMI 0.80, ARI 0.70 (1: equal).",
        "The batches lie apart: iLISI 0.05 (0: no cell has neighbors of another batch, 1: even).",
        "All scores together: 0.66 (biology 0.70, batches 0.60).",
        "RNA and ADT: 10.0% of the cells are nearer than the true partner (chance: 50%), "
        "75.0% of the ADT cells get their own label from RNA cells.",
        "Held-out ADT: RMSE 0.400 on log counts (training mean: 0.600), Pearson 0.500. "
        "kNN does better: Pearson 0.600 against 0.500, Spearman 0.400 against 0.300.",
        "Held-out ATAC: AUROC 0.800 within a cell (training mean: 0.700). No baseline does better "
        "(training mean).",
        "Held-out RNA: RMSE 0.250 on log counts, Pearson 0.500.",
    ]
    assert headline({"evaluation": {}}) == []


def test_no_baseline_that_is_better_is_left_unsaid():
    scores = of_adt(knn={"pearson": 0.6}, ridge={"spearman": 0.7}, mean={"pearson": 0.5, "rmse": 0.9})
    for beaten_by in ([], ["knn"]):
        scores["adt"]["beaten_by"] = beaten_by
        (line,) = headline(metrics(imputation=scores))
        assert line.endswith(
            "kNN does better: Pearson 0.600 against 0.500; ridge does better: Spearman 0.700 against 0.300."
        )
    scores = of_adt(knn={"pearson": 0.5, "rmse": 0.4})
    (line,) = headline(metrics(imputation=scores))
    assert line.endswith("No baseline does better (kNN).")
    scores["adt"]["beaten_by"] = ["knn"]
    (line,) = headline(metrics(imputation=scores))
    assert line.endswith("kNN does better.")


@pytest.fixture
def run(tmp_path, picture):
    """A folder with every file that a report is made of, and hostile text in all of them."""
    folder = tmp_path / "run"
    (folder / "figures").mkdir(parents=True)
    found = metrics(
        integration={"nmi": 0.8, "n_cells": 90},
        modalities={"rna-adt": {"foscttm": 0.1}},
        imputation=of_adt(mean={**COUNTS, "pearson": 0.0}, knn={"pearson": 0.6, "rmse": 0.5}),
        trust={
            "verdict": "partly",
            "words": ["In part.", BAD],
            "pairs": [{"a": "one", "b": BAD, "verdict": "not", "mixing": [0.1, 0.2]}],
            "do_not_transfer": [BAD],
        },
        mosaic={"missing": 0.4, BAD: {"deep": {"deeper": [1, {"x": BAD}]}}},
    )
    files = {
        "metrics.final.json": found,
        "diagnosis.json": {
            "problem": {"type": "mosaic", "why": BAD, "also": {"hierarchical": "levels"}},
            "checks": [BAD],
            "lost": [BAD],
            "cohorts": [{"batch": BAD, "cells": 3}],
            "links": {"connected": True, "thinnest_cells": 7},
            "modalities": {"rna": {"cells": 3, "depth_by_batch": {BAD: 2.0}}},
            "settings": [{"setting": "optim.lr", "value": 1, "why": BAD}],
            "more": {BAD: 1},
        },
        "alignment_metrics.json": {
            "mmd": {
                "weight": 1.0,
                "first_epoch": {"loss": 0.5},
                "last_epoch": {"loss": 0.25, "grad_norm": 0.0625},
                "final": {"loss": 0.125},
                "by_pair": {BAD: 0.75},
            }
        },
        "bridge_metrics.json": {"provider": "mnn", "n_edges": 321, "refreshes": [{"kept": 0.987}]},
        "train_history.json": {"history": [{"epoch": 1, "train": {"elbo.loss": 99.0}}]},
        "warnings.json": [BAD, "a warning"],
        "versions.json": {"remadom": "9.9"},
        "figures/figures.json": [
            {"title": "Losses", "file": "losses.png", "caption": BAD, "section": "training"},
            {"title": "Proteins", "file": "losses.png", "caption": "c", "section": "adt"},
            {"title": "Something", "file": "losses.png", "caption": "c", "section": "new"},
        ],
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "config.resolved.yaml").write_text(f"optim:\n  seed: 0\n  lr: 0.1\n# {BAD}\n")
    picture.rename(folder / "figures" / "losses.png")
    return folder


def section(page, title):
    """The text of a section."""
    titles = ["Data and pattern", "Evidence for the verdict", "Embedding", "Imputation beside its baselines"]
    titles += ["Problem: mosaic", "Alignment", "Bridge", "Figures", "RNA", "ADT", "Training"]
    titles += ["Configuration", "Warnings", "Versions"]
    text = [words.strip() for words in page.text if words.strip()]
    at, places = 0, []
    for name in titles:
        at = text.index(name, at)
        places.append(at)
        at += 1
    places.append(len(text))
    number = titles.index(title)
    return text[places[number] : places[number + 1]]


def test_a_report_is_made_from_the_run_folder_alone(run, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.move(run, moved)
    assert write_report(moved) == moved / "report.html"
    page = Page(moved / "report.html")
    assert [a["class"] for a in page.all("section")] == ["verdict partly", "lines"]
    assert page.text.index("In part.") < page.text.index("Data and pattern")
    data = section(page, "Data and pattern")
    assert {
        "60",
        "RNA",
        "optim.lr",
        "thinnest cells",
        "depth by batch",
        f"Cannot be recovered: {BAD}.",
    } <= set(data)
    assert f"Problem type: mosaic. {BAD}." in data
    assert "Also hierarchical. Levels." in data
    assert {f"one and {BAD}", "not", "0.1, 0.2"} <= set(section(page, "Evidence for the verdict"))
    assert {"NMI", "0.8", "FOSCTTM"} <= set(section(page, "Embedding"))
    assert {"0.4", "missing", f"x: {BAD}"} <= set(section(page, "Problem: mosaic"))
    assert {"mmd", "0.5", "0.25", "0.125", "0.0625", "0.75"} <= set(section(page, "Alignment"))
    assert {"321", "mnn"} <= set(section(page, "Bridge"))
    assert "0.987" not in "".join(page.text)
    assert "Something" in section(page, "Figures")
    assert {"Proteins", "60 cells (60% of all), 7 features.", "kNN"} <= set(section(page, "ADT"))
    assert {"6", "7"} <= set(section(page, "RNA"))
    assert {"99", "10", "11", "Losses"} <= set(section(page, "Training"))
    assert {"a warning", BAD} <= set(section(page, "Warnings"))
    assert {"remadom", "9.9"} <= set(section(page, "Versions"))
    assert len(page.all("img")) == 3
    assert not page.all("script")
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_the_winner_is_marked_and_a_baseline_that_wins_is_named(run):
    write_report(run)
    found = section(Page(run / "report.html"), "Imputation beside its baselines")
    table = found[found.index("remadom") :]
    assert table[1:4] == ["0.5", "0.4 ★", "0.3"], "Spearman is the same for the mean: nobody is best"
    assert found[found.index("kNN") + 1] == "0.6 ★"
    assert "The baseline kNN is better in Pearson 0.600 against 0.500." in found
    assert "The 90 % intervals hold 87.3% of the held-out values." in found
    assert not any("training mean is better" in words for words in found)


def test_a_folder_with_metrics_alone_has_a_report(tmp_path):
    (tmp_path / "metrics.final.json").write_text(json.dumps({"run": {}, "evaluation": {}}))
    write_report(tmp_path)
    page = Page(tmp_path / "report.html")
    assert "remadom: data" in page.text
    assert not page.all("section")
    assert not page.all("details")


def test_what_is_no_finished_run_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="expected the folder of a finished run"):
        write_report(tmp_path / "nowhere")
    (run / "diagnosis.json").write_text("{")
    with pytest.raises(InputError, match=r"diagnosis.json is not JSON"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_runs_side_by_side(run, tmp_path):
    other = tmp_path / "deep" / "run"
    shutil.copytree(run, other)
    found = json.loads((other / "metrics.final.json").read_text())
    found["evaluation"]["integration"]["nmi"] = 0.9
    found["evaluation"]["modalities"]["rna-adt"]["foscttm"] = 0.2
    found["evaluation"]["trust"]["verdict"] = "aligned"
    (other / "metrics.final.json").write_text(json.dumps(found))
    (other / "config.resolved.yaml").write_text(f"optim:\n  seed: 7\n  lr: 0.1\n  x: {json.dumps(BAD)}\n")
    write_comparison([run, other], tmp_path / "c.html")
    page = Page(tmp_path / "c.html")
    text = [words.strip() for words in page.text if words.strip()]
    assert [a["class"] for a in page.all("section")] == ["verdict partly", "verdict aligned"]
    names = [f"{tmp_path.name}/run", "deep/run"]
    assert text[text.index("What was run") + 1 :][:2] == names
    assert text[text.index("NMI") + 1 :][:2] == ["0.8", "0.9 ★"]
    assert text[text.index("FOSCTTM") + 1 :][:2] == ["0.1 ★", "0.2"]
    settings = text[text.index("Settings that differ") :]
    assert settings[settings.index("optim.seed") + 1 :][:2] == ["0", "7"]
    assert settings[settings.index("optim.x") + 1 :][:2] == ["—", BAD]
    assert "optim.lr" not in text
    assert len(page.all("img")) == 6
    assert not page.all("script")
    with pytest.raises(InputError, match="found a run twice"):
        write_comparison([run, run], tmp_path / "d.html")


def test_runs_of_different_data_are_said_to_be(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / "metrics.final.json").write_text(
        (run / "metrics.final.json").read_text().replace("/data/", "/x/")
    )
    write_comparison([run, other], tmp_path / "c.html")
    assert "scores cannot be compared" in "".join(Page(tmp_path / "c.html").text)


def test_nested_values_are_all_in_the_tables():
    value = {
        "a": 1,
        "none": None,
        "list": [1, 2],
        "rows": [{"x": 1, "y": "p"}, {"x": 2, "z": {"q": 0.5}}],
        "each": {"u": {"m": 1}, "v": {"n": 2}},
        "odd": {"one": {"m": {"n": 3}}},
        "empty": {},
        "texts": ["s", "t"],
    }
    found = {
        table.title: (list(table.columns), [list(row) for row in table.rows])
        for table in plain.tables("t", value)
    }
    assert found == {
        "t": (
            ["", "value"],
            [["a", 1], ["none", None], ["list", "1, 2"], ["empty", ""], ["texts", "s, t"]],
        ),
        "t: rows": (["x", "y", "z"], [[1, "p", None], [2, None, "q: 0.5"]]),
        "t: each": (["", "m", "n"], [["u", 1, None], ["v", None, 2]]),
        "t: odd: one: m": (["", "value"], [["n", 3]]),
    }
    assert plain.tables("t", None) == plain.tables("t", {}) == plain.tables("t", []) == []
    (long,) = plain.tables("t", list(range(plain.MOST_ROWS + 5)))
    assert long.rows[-1] == ["and 5 more"]
    assert len(long.rows) == plain.MOST_ROWS + 1


def test_every_measure_has_a_name_of_its_own():
    titles = [entry.title for entry in MEASURES.values()]
    assert len(set(titles)) == len(titles)
    transfer = measure("label_transfer_rna_to_adt")
    assert (transfer.title, transfer.better) == ("labels RNA to ADT", "higher")
    assert measure("something_new") == ("something_new", "", "")
