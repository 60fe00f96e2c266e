"""The page on extending remadom does what it says: its blocks are run as they stand, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from remadom.config.load import overlay

PAGE = Path(__file__).parents[2] / "docs/extend.md"

PARTS = """
import os
import sys

import remadom.evaluating, remadom.exporting, remadom.imputing  # what takes seconds, and nothing of the user's own

for part in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        code = compile(open(f"{part}.part").read(), part, "exec")
        sys.stdout = open(f"{part}.out", "w")
        exec(code, {"__name__": "__main__"})
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit(f"the part {part} failed")
"""
"""Runs parts one after the other, each in a process of its own in which nothing is registered yet."""

IN_PYTHON = """
import json
import runpy

import numpy as np
import torch

from remadom import run
from remadom.config.load import read_config
from remadom.solvers.spread import mean_square

runpy.run_path("cells.py")
done = runpy.run_path("use.py")["done"]
runpy.run_path("check.py")
raw = read_config("histone.yaml")
plain = run.train({**raw, "alignment": {}, "bridge": {}, "logging": {"run_dir": "runs/plain"}})
edges = done.assembly.objective.structure.edges
batch = done.assembly.groups["batch"][0]


def lengths(of):
    z = torch.from_numpy(np.load(of.dir / "embeddings.npz")["z_bio"])
    centers = (z[batch == 0].mean(0) - z[batch == 1].mean(0)).square().sum() / mean_square(z)
    along = (z[edges.src] - z[edges.dst]).square().sum(1).mean() / mean_square(z)
    return centers.item(), along.item()


print(json.dumps([lengths(done), lengths(plain), len(edges), done.history.history]))
"""
"""What the page shows in Python, and the same training without its head and its bridge."""

COMMANDS = """
import json

from typer.testing import CliRunner

from remadom.cli.app import app

for line in {lines}:
    result = CliRunner().invoke(app, line)
    said = "".join([result.output, "" if result.exception is None else repr(result.exception)])
    print(json.dumps([result.exit_code, said]))
"""
"""Commands one after the other."""

WITHOUT = {
    "train --config histone.yaml": "unknown modality 'histone'",
    "train cells.h5mu model.decoders.rna.likelihood=geometric": "unknown 'geometric'",
    "train cells.h5mu evaluation.metrics.leak={}": "unknown metric 'leak'",
    "train --resume runs/python": "needs .*'power'.*'geometric'.*'centers'.*'same_genes'.*'leak'.*--import MODULE",
    "embed runs/python cells.h5mu --out none.npz": "needs modality 'histone'.*--import MODULE",
    "impute runs/python --modality histone --out none.h5ad": "needs modality 'histone'.*--import MODULE",
    "evaluate runs/python": "needs modality 'histone'.*--import MODULE",
}
"""Commands that cannot know the components, and what they say."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, its configuration with few epochs and no figures, and what came of running them."""
    folder = tmp_path_factory.mktemp("extend")
    page = PAGE.read_text(encoding="utf-8")
    before, _, after = page.partition("## Run it\n")
    cells, use, check = blocks(after, "python")
    raw = yaml.safe_load(blocks(after, "yaml")[0])
    raw = overlay(raw, {"optim": {"epochs": 6}, "evaluation": {"figures": False}})
    left = {"encoders": {"rna": {"components": 0}}, "correction": False}  # leaves the head something to do
    raw = overlay(raw, {"model": left})
    (shell,) = blocks(page, "bash")
    lines = [line.split()[1:] for line in shell.splitlines()]
    files = {
        "histone_parts.py": "\n\n".join(blocks(before, "python")),
        "cells.py": cells,
        "use.py": use,
        "check.py": check,
        "histone.yaml": yaml.safe_dump(overlay(raw, {"logging": {"run_dir": "runs/python"}})),
        "python.part": IN_PYTHON,
        "commands.part": COMMANDS.format(lines=lines),
        "without.part": COMMANDS.format(
            lines=[*(line.split() for line in WITHOUT), ["report", "runs/python"]]
        ),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", PARTS, "python", "commands", "without"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def results(folder: Path, part: str) -> list[Any]:
    return [json.loads(line) for line in (folder / f"{part}.out").read_text().splitlines() if line[0] == "["]


def test_the_page_in_python(folder: Path):
    (ours, plain, n_edges, history) = results(folder, "python")[-1]
    losses = [row["train"]["elbo.recon.histone"] for row in history]
    assert losses[-1] < losses[0] - 0.5, "nats per cell"
    assert ours[0] < 0.7 * plain[0], "the head brought the batches together"
    assert ours[1] < 0.9 * plain[1], "the bridge brought the ends of its edges together"
    assert n_edges > 100
    metrics = json.loads((folder / "runs/python/metrics.final.json").read_text())
    assert metrics["bridge"]["provider"] == "same_genes"
    assert 0 <= metrics["evaluation"]["metrics"]["leak"] < 1
    assert metrics["evaluation"]["imputation"]["histone"]["pearson_cell"] > 0


def test_the_commands_of_the_page(folder: Path):
    found = results(folder, "commands")
    assert len(found) > 5
    for code, said in found:
        assert code == 0, said
    embedding = np.load(folder / "embedding.npz")
    theirs = np.load(folder / "runs/histone/embeddings.npz")
    np.testing.assert_allclose(embedding["z_bio"], theirs["z_bio"], atol=1e-5)
    assert {"histone.h5ad", "with_embedding.h5mu"} <= {path.name for path in folder.iterdir()}
    metrics = json.loads((folder / "runs/histone/metrics.final.json").read_text())
    report = (folder / "runs/histone/report.html").read_text()
    assert list(metrics["evaluation"]["metrics"]) == ["leak"]
    assert "share of the variance of a measure of quality" in report
    assert "H3K27ac" in report


def test_without_the_import_the_word_is_clear(folder: Path):
    *told, report = results(folder, "without")
    for (code, said), (line, words) in zip(told, WITHOUT.items(), strict=True):
        assert code == 2, (line, said)
        assert re.search(words, said), (line, said)
    assert report[0] == 0, "a report is made of the files of the run alone"
