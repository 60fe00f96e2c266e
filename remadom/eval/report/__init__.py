"""The report of a run, or of several: one HTML file, made from what is in the run folder alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from remadom.eval.report.beside import compared
from remadom.eval.report.folder import FIGURES, RunFolder, read_run
from remadom.eval.report.headline import headline, results, verdict
from remadom.eval.report.page import (
    Code,
    Figure,
    Gallery,
    Report,
    Section,
    Table,
    Text,
    Verdict,
    render_report,
    shown,
)
from remadom.eval.report.sections import sections
from remadom.utils.outputs import REPORT

__all__ = [
    "FIGURES",
    "Code",
    "Figure",
    "Gallery",
    "Report",
    "RunFolder",
    "Section",
    "Table",
    "Text",
    "Verdict",
    "headline",
    "read_run",
    "render_report",
    "shown",
    "write_comparison",
    "write_report",
]


def write_report(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a finished run from the files in its folder.

    Parameters
    ----------
    run_dir
        The folder; ``metrics.final.json`` must be there, the other files are shown where they are.
    out
        The HTML file; ``report.html`` in the folder by default.

    Raises
    ------
    InputError
        There is no finished run, or a file of it cannot be read or shown.
    """
    run = read_run(run_dir)
    trust = run.evaluation.get("trust")
    verdicts = [Verdict(trust.get("verdict", "unknown"), verdict(run.metrics))] if trust else []
    report = Report(f"remadom: {run.title}", verdicts, results(run.metrics), sections(run))
    path = run.path / REPORT if out is None else Path(out)
    render_report(report, path)
    return path


def write_comparison(run_dirs: Sequence[str | Path], out: str | Path) -> Path:
    """Write one HTML file in which several runs stand side by side.

    Parameters
    ----------
    run_dirs
        Folders of finished runs, each once.
    out
        The HTML file.

    Raises
    ------
    InputError
        A folder holds no finished run or is named twice, or a file cannot be read or shown.
    """
    render_report(compared([read_run(folder) for folder in run_dirs]), out)
    return Path(out)
