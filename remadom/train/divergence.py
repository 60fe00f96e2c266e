"""The first loss or gradient that is not finite: noticed without stalling the device, explained afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from remadom.types import Batch


class Health:
    """1 as long as everything was finite, NaN from the first value that was not.

    The loss is multiplied by it, so that no step after a bad one moves the weights, and the step itself is
    skipped on the device. Nothing waits for the device until :meth:`first_bad` is asked, except where a scalar
    costs nothing to read (``eager``).

    Parameters
    ----------
    device
        Where the losses are.
    eager
        Whether to read every value at once: on a CPU, and when anomalies are traced.
    """

    def __init__(self, device: torch.device, eager: bool) -> None:
        self.eager = eager
        self.value = torch.ones((), device=device)
        self._trail: list[Tensor] = []

    def keeps(self, scalar: Tensor) -> bool:
        """Take a loss or the norm of a gradient; False if it is known to be not finite."""
        if self.eager and math.isfinite(scalar.item()):
            return True
        self.value = self.value * (scalar.detach() * 0 + 1).to(self.value.dtype)
        return not self.eager

    def end_step(self) -> None:
        """A step is over."""
        self._trail.append(self.value)

    def forget(self) -> None:
        """Count the steps anew."""
        self._trail.clear()

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """Let a fused optimizer skip its step, on the device, if something was not finite."""
        if not self.eager:
            optimizer.found_inf = self.value.isnan().float()  # type: ignore[attr-defined]

    def first_bad(self) -> int | None:
        """Which step was the first bad one, counted from 0 (the one under way is the last), or ``None``."""
        bad = torch.stack([*self._trail, self.value]).isnan().tolist()
        return bad.index(True) if True in bad else None


def explain(
    terms: list[tuple[str, Tensor]],
    batch: Batch,
    cell_names: Sequence[str] | None,
    parameters: Iterable[tuple[str, nn.Parameter]],
) -> str:
    """Where a loss or gradient is not finite: terms with their modality and up to five cells, or parameters.

    Parameters
    ----------
    terms
        Name of each bad term with its mask over the cells of ``batch``; empty if the loss itself is finite.
    batch
        The cells.
    cell_names
        Names of all cells of the data; row numbers are given where there are none.
    parameters
        Named parameters, with the gradients of this batch where ``terms`` is empty.
    """
    if terms:
        return "; ".join(_term(name, mask, batch, cell_names) for name, mask in terms)
    bad = [
        name
        for name, parameter in parameters
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        return f"the gradient of {', '.join(bad[:3])}{more}, while the loss itself is finite"
    return "no single term: it did not happen again when the step was repeated"


def _term(name: str, mask: Tensor, batch: Batch, cell_names: Sequence[str] | None) -> str:
    rows = batch.index[mask].tolist()
    named = [str(row) if cell_names is None else cell_names[row] for row in rows[:5]]
    modality = next((part for part in name.split(".") if part in batch.modalities), None)
    where = f" (modality {modality})" if modality else ""
    kind = "rows" if cell_names is None else "cells"
    more = f" and {len(rows) - 5} more of {len(batch)}" if len(rows) > 5 else f" of {len(batch)} in the batch"
    return f"{name}{where}, {kind} {', '.join(named)}{more}"
