"""The report command, and its page as Chromium shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from remadom.cli.app import app
from remadom.eval.figures import draw_confusion, draw_losses

BAD = "</script><img src=http://evil.test/x.png onerror=alert(1)>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian package chromium)"
)


def remadom(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, with hostile names wherever the data has a say."""
    monkeypatch.chdir(tmp_path)
    return finished(tmp_path / "run", nmi=0.5)


def finished(folder: Path, nmi: float) -> Path:
    history = [{"epoch": n, "train": {"elbo.loss": 9.0 / n}} for n in (1, 2, 3)]
    draw_losses(history, folder / "figures/losses.png")
    labels = np.resize([BAD, "B", "NK"], 60)
    draw_confusion(labels, np.roll(labels, 1), folder / "figures/confusion.png", title=BAD)
    metrics = {
        "run": {
            "data": f"/data/{BAD}.h5mu",
            "n_cells": 60,
            "modalities": {"rna": {"cells": 60, "features": 9}, BAD: {"cells": 6, "features": 1}},
        },
        "train": {"elbo.loss": 3.0},
        "val": {},
        "evaluation": {
            "integration": {"nmi": nmi, "ari": 0.5},
            "imputation": {
                "adt": {"pearson": 0.5, "baselines": {"knn": {"pearson": 0.6}, BAD: {"pearson": 0}}}
            },
            "trust": {"verdict": "partly", "words": [BAD], "pairs": [{"a": BAD}], "do_not_transfer": [BAD]},
        },
    }
    figures = [
        {"title": "Losses", "file": "losses.png", "caption": BAD, "section": "training"},
        {"title": BAD, "file": "confusion.png", "caption": "Labels.", "section": "other"},
    ]
    (folder / "metrics.final.json").write_text(json.dumps(metrics))
    (folder / "train_history.json").write_text(json.dumps({"history": history}))
    (folder / "diagnosis.json").write_text(json.dumps({BAD: [{BAD: BAD}]}))
    (folder / "warnings.json").write_text(json.dumps([BAD]))
    (folder / "figures/figures.json").write_text(json.dumps(figures))
    (folder / "config.resolved.yaml").write_text(f"optim:\n  seed: {nmi}\n")
    return folder


def test_a_report_is_written_anew_and_runs_stand_side_by_side(run: Path, tmp_path: Path):
    result = remadom("report", "run")
    assert result.exit_code == 0, result.output
    assert result.output == "report: run/report.html\n"
    first = (run / "report.html").read_bytes()
    (run / "report.html").write_text("stale")
    assert remadom("report", run).exit_code == 0
    assert (run / "report.html").read_bytes() == first
    finished(tmp_path / "other", nmi=0.75)
    result = remadom("report", "run", "other")
    assert result.output == "report: comparison.html\n"
    assert "0.75 ★" in Path("comparison.html").read_text()
    assert not (tmp_path / "other/report.html").exists()
    assert remadom("report", "run", "--out", "deep/r.html").exit_code == 0
    assert Path("deep/r.html").read_bytes() == first


def test_what_cannot_be_reported_on_is_said_in_one_line(run: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    Path("mine.html").write_text("mine")
    for words, message in (
        (["empty"], "empty has no metrics.final.json; expected the folder of a finished run"),
        (["run", "run"], "found a run twice"),
        (["run", "--out", "mine.html"], "mine.html exists; choose another --out, or give --overwrite"),
    ):
        result = remadom("report", *words)
        assert result.exit_code == 2
        assert message in result.output
    assert Path("mine.html").read_text() == "mine"
    assert not Path("comparison.html").exists()
    assert remadom("report", "run", "--out", "mine.html", "--overwrite").exit_code == 0


BROWSER = re.compile(
    r"(http://)?(\w+\.google\.com|(update|[\w-]+-pa|content-autofill)\.googleapis\.com)[:/].*"
)
"""What the browser itself asks for when it starts."""

LOOK = """<!doctype html><meta charset="utf-8"><title>look</title><link rel="icon" href="data:,">
<iframe src="/report.html" width="1100" height="800"></iframe><pre></pre>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const shown = element => element.getBoundingClientRect().height;
  const folds = [...page.querySelectorAll("details")].map(section => {
    const parts = [...section.children].slice(1), heights = [section.open];
    for (let turn = 0; turn < 2; turn++) {
      section.querySelector("summary").click();
      heights.push(section.open, shown(section));
    }
    return heights;
  });
  page.querySelectorAll("details").forEach(section => { section.open = true; });
  document.querySelector("pre").textContent = JSON.stringify({
    title: page.title,
    folds: folds,
    images: [...page.images].map(image => [image.naturalWidth, shown(image)]),
    width: [page.documentElement.scrollWidth, page.documentElement.clientWidth],
    paper: getComputedStyle(page.body).backgroundColor,
    ink: getComputedStyle(page.body).color,
    text: page.body.innerText,
  });
};
</script>"""


@dataclass
class Web:
    """All of the web, as a proxy: it knows two pages, and every address that was asked for."""

    pages: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    port: int = 0


@pytest.fixture
def web() -> Iterator[Web]:
    known = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.asked.append(self.path)
            content = known.pages.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write((content or "").encode())

        def do_CONNECT(self) -> None:
            known.asked.append(self.path)
            self.send_error(502)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        known.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield known
        server.shutdown()
        thread.join()


def look(web: Web, page: str, folder: Path, *options: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """What Chromium shows of a page, what it wrote to its console, and what else it asked the web for."""
    web.asked.clear()
    web.pages = {"http://run.test/look.html": LOOK, "http://run.test/report.html": page}
    found = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-default-apps", "--disable-extensions", "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}", f"--proxy-server=127.0.0.1:{web.port}",
            "--proxy-bypass-list=<-loopback>", "--window-size=1200,1000", "--virtual-time-budget=4000",
            *options, "--dump-dom", "http://run.test/look.html",
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    (seen,) = re.findall(r"<pre>(.*?)</pre>", found.stdout, re.DOTALL)
    console = [line for line in found.stderr.splitlines() if "CONSOLE" in line]
    asked = [address for address in web.asked if address not in web.pages and not BROWSER.fullmatch(address)]
    return json.loads(html.unescape(seen)), console, asked


@needs_chromium
def test_a_page_opens_in_chromium_folds_and_asks_for_nothing(run: Path, web: Web, tmp_path: Path):
    assert remadom("report", run).exit_code == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    seen, console, asked = look(web, page, tmp_path)
    assert console == []
    assert asked == []
    assert seen["title"] == f"remadom: {Path(f'/data/{BAD}.h5mu').name}"
    assert len(seen["folds"]) > 6
    assert {start for start, *_ in seen["folds"]} == {True, False}
    for start, first, height, second, back in seen["folds"]:
        assert (first, second) == (not start, start)
        assert (height > back + 10) if first else (back > height + 10), "folding hides what is in a section"
    assert len(seen["images"]) == 2
    assert all(natural > 100 and height > 100 for natural, height in seen["images"])
    assert seen["width"][0] <= seen["width"][1], "nothing is cut off at the right"
    assert seen["text"].count(BAD) > 6
    assert (seen["paper"], seen["ink"]) == ("rgb(255, 255, 255)", "rgb(27, 31, 36)")
    dark, *_ = look(web, page, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert (dark["paper"], dark["ink"]) == ("rgb(20, 23, 27)", "rgb(230, 232, 235)")


@needs_chromium
def test_the_look_sees_what_it_must_not_find(run: Path, web: Web, tmp_path: Path):
    """Without its policy and its escapes the same page asks, fails and alerts."""
    assert remadom("report", run).exit_code == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    page = (
        re.sub(r"<meta http-equiv=.*?>", "", page) + "<img src=http://evil.test/x.png><script>oops()</script>"
    )
    seen, console, asked = look(web, page, tmp_path)
    assert asked == ["http://evil.test/x.png"]
    assert any("oops is not defined" in line for line in console)
    assert 0 in [natural for natural, _ in seen["images"]]
