"""What must hold before training: sizes that fit the data, and counts that are counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from remadom.data.modality import modality_named
from remadom.data.sampler import blocks
from remadom.data.source import Source
from remadom.errors import InputError

NEGATIVE = "negative"
FRACTIONAL = "fractional"
WRONG: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "missing": np.isnan,
    "infinite": np.isinf,
    NEGATIVE: lambda values: np.isfinite(values) & (values < 0),
    FRACTIONAL: lambda values: np.isfinite(values) & (values != np.rint(values)),
}
"""What a count cannot be."""


def validate_dims(
    source: Source, encoders: Mapping[str, int | None], decoders: Mapping[str, int | None]
) -> None:
    """Check that encoders and decoders have the sizes of the data.

    Parameters
    ----------
    source
        The data as they will be trained on, after preprocessing.
    encoders, decoders
        Configured size by modality; ``None`` is to be inferred and fits.

    Raises
    ------
    InputError
        One line for each mismatch: found, expected, what to do.
    """
    wrong = []
    for kind, sizes in (("encoder", encoders), ("decoder", decoders)):
        for modality, expected in sizes.items():
            setting = f"model.{kind}s.{modality}"
            if modality not in source.modalities:
                wrong.append(
                    f"{modality}: {setting} is configured, the data has {', '.join(source.modalities)}; "
                    f"remove it, or name the matrix with data.keys.{modality}"
                )
                continue
            rep = source.reps.get(modality) if kind == "encoder" else None
            size = len(source.features[modality]) if rep is None else rep.shape[1]
            if expected in (None, size):
                continue
            verb, option = ("expects", "in_dim") if kind == "encoder" else ("gives", "out_dim")
            unit = "features" if rep is None else "components"
            remedy = f"set {setting}.{option} to {size}"
            size_key = modality_named(modality).size_key
            if rep is None and size_key is not None:
                remedy += f" or {size_key} to {expected}"
            wrong.append(f"{modality}: {kind} {verb} {expected} {unit}, the data has {size}; {remedy}")
    if wrong:
        raise InputError("\n".join(wrong))


def validate_counts(
    source: Source,
    modality: str,
    cells: np.ndarray | None = None,
    *,
    integers: bool,
    nonnegative: bool = True,
) -> None:
    """Check that the values of a modality can be counts; the cells are passed over in blocks.

    Parameters
    ----------
    source
        The data, before binarization.
    modality
        Which.
    cells
        Positions of the cells to check; all of them by default.
    integers, nonnegative
        Whether the values must be whole numbers, and whether they may not be below zero.

    Raises
    ------
    InputError
        Some values are missing, infinite, or what they may not be. The message says how many, in how many cells,
        the first cell and feature, and what to do.
    """
    cells = np.arange(source.n_cells) if cells is None else np.asarray(cells)
    allowed = {NEGATIVE: not nonnegative, FRACTIONAL: not integers}
    kinds = [kind for kind in WRONG if not allowed.get(kind, False)]
    n_values, n_cells = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
    first: dict[str, str] = {}
    for place, rows in blocks(partial(source.rows, modality), cells):
        for kind in kinds:
            at = np.flatnonzero(WRONG[kind](rows.data))
            if len(at):
                row = np.searchsorted(rows.indptr, at, side="right") - 1
                n_values[kind] += len(at)
                n_cells[kind] += len(np.unique(row))
                cell = source.obs_names[cells[place][row[0]]]
                feature = source.features[modality][rows.indices[at[0]]]
                first.setdefault(kind, f"{rows.data[at[0]]:.6g} of feature '{feature}' in cell '{cell}'")
    if not first:
        return
    found = "; ".join(
        f"{kind} values: {n_values[kind]}, in {n_cells[kind]} of {len(cells)} cells (first: {first[kind]})"
        for kind in kinds
        if kind in first
    )
    remedies = []
    if "missing" in first or "infinite" in first:
        remedies.append("remove those cells or features, or write 0 where nothing was counted")
    if NEGATIVE in first or FRACTIONAL in first:
        remedies.append(
            "these look like normalized values: choose raw counts by "
            f"data.keys.{modality}, for example layers:counts"
        )
    raise InputError(f"{modality} ({source.places[modality]}): {found}; {'; '.join(remedies)}")
