"""The verb behind ``remadom label``: labels that some cells of a run have, given to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remadom.adapters.cells import label_texts
from remadom.config.trained import Trained
from remadom.data.obs import column_of
from remadom.errors import InputError
from remadom.results.labeled import Labeled, label_cells
from remadom.utils.files import refuse_existing, write_text
from remadom.utils.outputs import RunDir


def label(
    checkpoint: str | Path,
    out: str | Path,
    column: str | None = None,
    data: Any = None,
    *,
    overwrite: bool = False,
) -> Labeled:
    """Write a label for each cell of a run, by the cells that have one, and how far such labels can be trusted.

    The table ``out`` has a row a cell: ``obs_name``, ``batch``, ``own_label``, ``label`` (``unknown`` for a cell that
    is like no labeled one), ``nearest`` (the label all the same), ``confidence`` (probability that it is right) and
    ``familiar`` (chance that a labeled cell lies as far from the others). Beside it, with the ending ``.json``, stand
    the cells of each label and batch, and a ``check``: labeled cells, labeled by those of other batches.

    Parameters
    ----------
    checkpoint
        A run folder, a checkpoint or a saved model.
    out
        CSV file.
    column
        Of obs, with ``None``, NaN or an empty text for cells without a label; by default ``evaluation.label_key``.
    data
        File, AnnData, MuData or mapping of AnnData; by default the data that was trained on.
    overwrite
        Replace ``out`` and what is beside it.

    Raises
    ------
    InputError
        No such run or column, fewer than two labels, or a file to write exists.
    """
    out = Path(out)
    if out.suffix != ".csv":
        raise InputError(f"{out} is no .csv; name a table such as {out.with_suffix('.csv')}")
    summary = out.with_suffix(".json")
    refuse_existing(out, summary, overwrite=overwrite)
    trained = Trained.load(checkpoint)
    source = trained.source(data)
    column = trained.config.evaluation.label_key if column is None else column
    found = label_cells(trained, source, label_texts(column_of(source.obs, column)))
    write_text(out, found.table(source.obs_names).to_csv(index=False))
    about = {"model": str(trained.path), "column": column, **found.summary()}
    RunDir(out.parent).write_json(summary.name, about)
    return found
