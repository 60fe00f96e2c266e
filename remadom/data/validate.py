"""What must hold before training: sizes that fit the data, and values that are what the likelihood is one of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from remadom.data.modality import modality_named
from remadom.data.sampler import blocks
from remadom.data.source import Source
from remadom.errors import InputError
from remadom.types import Support

NEGATIVE = "negative"
FRACTIONAL = "fractional"
ABOVE_ONE = "above one"
WRONG: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "missing": np.isnan,
    "infinite": np.isinf,
    NEGATIVE: lambda values: np.isfinite(values) & (values < 0),
    FRACTIONAL: lambda values: np.isfinite(values) & (values != np.rint(values)),
    ABOVE_ONE: lambda values: np.isfinite(values) & (values > 1),
}
"""What values may not be."""
NEVER: dict[Support | None, tuple[str, ...]] = {
    "counts": (NEGATIVE, FRACTIONAL),
    "events": (NEGATIVE,),
    "fractions": (NEGATIVE, ABOVE_ONE),
    "real": (),
    None: (),
}
"""What the values that a likelihood is one of never are, beside missing and infinite."""
OF_COUNTS = "nb, zinb, poisson, or for proteins poisson_mixture or nb_mixture"


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


def validate_values(
    source: Source,
    modality: str,
    cells: np.ndarray | None = None,
    *,
    support: Support | None,
    reader: str = "the model",
) -> None:
    """Check that the values of a modality are what reads them expects; the cells are passed over in blocks.

    Parameters
    ----------
    source
        The data, before binarization.
    modality
        Which.
    cells
        Positions of the cells to check; all of them by default.
    support
        What they must be (see :data:`~remadom.types.Support`; ``real`` and ``fractions`` are no counts either); with
        ``None`` any finite numbers do.
    reader
        What expects it, for the message.

    Raises
    ------
    InputError
        Some values are missing, infinite, or what they may not be. The message says how many, in how many cells,
        the first cell and feature, and what to do: give other values, or which likelihood is one of these.
    """
    cells = np.arange(source.n_cells) if cells is None else np.asarray(cells)
    kinds = [kind for kind in WRONG if kind in ("missing", "infinite", *NEVER[support])]
    n_values, n_cells = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
    first: dict[str, str] = {}
    least, most, whole = 0.0, 0.0, True
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
        finite = rows.data[np.isfinite(rows.data)]
        if len(finite):
            least, most = min(least, float(finite.min())), max(most, float(finite.max()))
            whole = whole and bool((finite == np.rint(finite)).all())
    are_counts = whole and least >= 0 and most > 1
    what = f"{modality} ({source.places[modality]})"
    if not first:
        if are_counts and support in ("real", "fractions"):
            raise InputError(
                f"{what}: all values are whole numbers from 0 to {most:.0f}, so counts; {reader} expects "
                f"{_words(support)}: choose a likelihood of counts by model.decoders.{modality}.likelihood "
                f"({OF_COUNTS}), or give normalized values by data.keys.{modality}"
            )
        return
    found = "; ".join(
        f"{kind} values: {n_values[kind]}, in {n_cells[kind]} of {len(cells)} cells (first: {first[kind]})"
        for kind in kinds
        if kind in first
    )
    remedies = []
    if "missing" in first or "infinite" in first:
        counted = ", or write 0 where nothing was counted" if support in ("counts", "events") else ""
        remedies.append(f"remove those cells or features{counted}")
    if first.keys() & set(NEVER[support]):
        remedies.append(
            f"{reader} expects {_words(support)}: {_remedy(modality, support, least, most, are_counts)}"
        )
    raise InputError(f"{what}: {found}; {'; '.join(remedies)}")


def _words(support: Support | None) -> str:
    return {
        "counts": "counts",
        "events": "values from 0 on",
        "real": "values on a real scale",
        "fractions": "fractions from 0 to 1",
        None: "numbers",
    }[support]


def _remedy(modality: str, support: Support | None, least: float, most: float, are_counts: bool) -> str:
    """Which values or which likelihood to choose where the values are not what they should be."""
    setting = f"model.decoders.{modality}.likelihood"
    if are_counts:
        return f"these look like counts: choose {OF_COUNTS} by {setting}"
    if least < 0:
        what = "these look like normalized values (arcsinh, CLR or the like): {} gaussian or gaussian_mixture by {}"
    elif most <= 1:
        what = "these look like fractions: {} beta by {}"
    else:
        what = "these look like normalized values: {} gaussian by {}"
    raw = support in ("counts", "events")
    choose = f"choose raw counts by data.keys.{modality}, for example layers:counts, or" if raw else "choose"
    encoded = f" (and standardized by model.encoders.{modality}.input)" if support == "events" else ""
    return what.format(choose, setting) + encoded
