from __future__ import annotations

import base64
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing

from remadom.errors import InputError
from remadom.eval.report import Figure, Report, Table, render_report, shown

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
    return Report(
        title=text,
        verdict_lines=[text, "Batches mix."],
        tables=[
            Table(text, ["score", text], [[text, 0.51234567], ["n_cells", 12345]]),
            Table("empty", ["a", "b"], []),
        ],
        figures=[Figure(text, picture, text)],
        config_text=f"data:\n  path: {text}\n",
        notes=[text],
        versions={"remadom": text},
    )


def test_everything_given_is_in_the_page(picture, tmp_path):
    render_report(full(picture), tmp_path / "deep" / "report.html")
    page = Page(tmp_path / "deep" / "report.html")
    assert page.text.count("some text") == 10
    for text in ("Batches mix.", "0.5123", "12,345", "n_cells", "remadom", "data:\n  path: some text\n"):
        assert text in page.text
    (image,) = page.all("img")
    kind, content = image["src"].split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == picture.read_bytes()


def test_text_from_the_data_stays_text(picture, tmp_path):
    render_report(full(picture, BAD), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.text.count(BAD) == 10
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
    render_report(Report("r", tables=[table]), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert [a.get("class") for a in page.all("th") if a["scope"] == "col"] == [None, "number", None, None]
    assert [a.get("class") for a in page.all("td")] == ["number", "number", None, "number", None, None]


def test_sections_without_content_are_left_out(tmp_path):
    render_report(Report("bare"), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert not page.all("details")
    assert not page.all("section")


def test_any_character_can_be_written(tmp_path):
    render_report(Report("細胞 \udc80 🧬", notes=["\x07"]), tmp_path / "report.html")
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


def test_what_cannot_be_shown_is_an_error_and_writes_nothing(picture, tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    for report, message in (
        (Report("r", figures=[Figure("f", tmp_path / "gone.png", "")]), "gone.png does not exist"),
        (Report("r", figures=[Figure("f", text, "")]), "notes.png is not a PNG file"),
        (Report("r", tables=[Table("t", ["a", "b"], [[1, 2], [3]])]), "'t' has 2 columns, and a row of 1"),
    ):
        with pytest.raises(InputError, match=message):
            render_report(report, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
