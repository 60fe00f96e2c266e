"""How strongly each term of the loss pulls at the latent, read off the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from remadom.types import Logs


class GradientMeter:
    """Squared norms of the gradients that flow through tapped tensors, by name."""

    def __init__(self) -> None:
        self._squares: dict[str, Tensor] = {}

    def clear(self) -> None:
        """Forget the last step."""
        self._squares.clear()

    def tap(self, name: str, value: Tensor) -> Tensor:
        """The same tensor; its gradient through this use counts under ``name``."""
        if not value.requires_grad:
            return value
        tapped = value.view_as(value)

        def read(gradient: Tensor) -> None:
            square = gradient.detach().float().square().sum()
            self._squares[name] = self._squares.get(name, torch.zeros_like(square)) + square

        tapped.register_hook(read)  # type: ignore[no-untyped-call]
        return tapped

    def relative_to(self, base: str) -> Logs:
        """Norm of each gradient over that of ``base``; a loss scale cancels."""
        if base not in self._squares:
            return {}
        unit = self._squares[base].sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        return {name: square.sqrt() / unit for name, square in self._squares.items() if name != base}
