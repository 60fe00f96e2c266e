"""Entries of a sparse structure among some of its cells."""

from __future__ import annotations

import torch
from torch import Tensor

from remadom.shapes import Int


def among(
    indptr: Int[Tensor, " cells_and_one"], indices: Int[Tensor, " entry"], index: Int[Tensor, " cell"]
) -> tuple[Int[Tensor, " inside"], Int[Tensor, " inside"], Int[Tensor, " inside"]]:
    """Entries of a CSR structure that have both ends in ``index``, a set of cells without repetition.

    The cost grows with the entries of these cells, not with the whole structure.

    Returns
    -------
    rows, columns, at
        Places of both ends in ``index``, and the position of each entry in the structure.
    """
    n, device = len(index), index.device
    if n == 0:
        nothing = torch.zeros(0, dtype=torch.long, device=device)
        return nothing, nothing, nothing
    start, counts = indptr[index], indptr[index + 1] - indptr[index]
    total = int(counts.sum())
    rows = torch.repeat_interleave(torch.arange(n, device=device), counts, output_size=total)
    at = torch.arange(total, device=device) + (start - counts.cumsum(0) + counts)[rows]
    ascending, order = index.sort()
    ends = indices[at]
    place = torch.searchsorted(ascending, ends).clamp(max=n - 1)
    inside = ascending[place] == ends
    return rows[inside], order[place[inside]], at[inside]
