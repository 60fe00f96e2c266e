"""The verb behind ``remadom report``: the report of a run made anew, or several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from remadom.errors import InputError
from remadom.eval.report import write_comparison, write_report
from remadom.utils.files import refuse_existing

COMPARISON = "comparison.html"


def report(runs: Sequence[str | Path], out: str | Path | None = None, *, overwrite: bool = False) -> Path:
    """Write the report of one run, or one page in which several runs stand side by side.

    Parameters
    ----------
    runs
        Folders of finished runs.
    out
        The HTML file to write. By default a run's own ``report.html``, which is replaced; for several runs
        ``comparison.html`` in the current folder.
    overwrite
        Replace ``out``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        There is no run, a folder holds no finished one, one is named twice, or ``out`` exists.
    """
    if not runs:
        raise InputError("found no run to report on; name the folder of a finished run")
    target = Path(COMPARISON) if out is None and len(runs) > 1 else out
    if target is not None:
        refuse_existing(target, overwrite=overwrite)
    if len(runs) == 1:
        return write_report(runs[0], target)
    assert target is not None
    return write_comparison(runs, target)
