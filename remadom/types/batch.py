"""Some cells with everything that was measured of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from remadom.shapes import Bool, Float, Int
from remadom.types.rows import Rows


@dataclass(frozen=True)
class Batch:
    """Some cells with everything that was measured of them; a modality is a key, never a field.

    Attributes
    ----------
    x
        Measured values by modality: what the decoder is scored on. Rows of absent cells are empty.
    has
        Presence by modality: explicit, never guessed from zeros.
    library
        Size factor by modality (total of the cell; the median of the training cells where it is absent).
    groups
        Codes by obs key (``batch``, ``dataset``); -1 is no group.
    index
        Row of each cell in the whole data set.
    seed
        False for a partner drawn along an edge: encoded for the alignment terms, not scored. Seeds come first.
    time
        Measured time, or ``None`` where the data has none.
    rep
        What the encoder reads in place of ``x`` where a modality has a representation (LSI).
    covariates
        What the decoders are given of each cell beside its batch, 0 for the average, or ``None``.
    at
        Positions of the cells that have a modality, for the modalities that some cells lack.
    n_seeds
        Number of the seeds.
    filled
        Whether cells stand in every modality, with zeros where they lack it: ``at`` is empty then, and what comes of
        the zeros is masked by ``has``.
    """

    x: Mapping[str, Rows]
    has: Mapping[str, Bool[Tensor, " cell"]]
    library: Mapping[str, Float[Tensor, " cell"]]
    groups: Mapping[str, Int[Tensor, " cell"]]
    index: Int[Tensor, " cell"]
    seed: Bool[Tensor, " cell"]
    time: Float[Tensor, " cell"] | None = None
    rep: Mapping[str, Rows] = field(default_factory=dict)
    covariates: Float[Tensor, "cell covariate"] | None = None
    at: Mapping[str, Int[Tensor, " present"]] = None  # type: ignore[assignment]
    n_seeds: int = None  # type: ignore[assignment]
    filled: bool = False

    def __post_init__(self) -> None:
        if self.n_seeds is None:
            n_seeds = int(self.seed.sum())
            assert bool(self.seed[:n_seeds].all()), "the seeds come first in a batch"
            object.__setattr__(self, "n_seeds", n_seeds)
        if self.at is None:
            told = {} if self.filled else self.has
            partly = {m: mask.nonzero().squeeze(1) for m, mask in told.items() if not bool(mask.all())}
            object.__setattr__(self, "at", partly)

    def __len__(self) -> int:
        return int(self.index.shape[0])

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the data set has, whether or not a cell of this batch was measured in them."""
        return tuple(self.has)

    @property
    def scored(self) -> Batch:
        """The seeds alone, for the decoders."""
        return (
            self if self.n_seeds == len(self) else self._seeds
        )  # a batch that held itself would not be freed

    @cached_property
    def _seeds(self) -> Batch:
        n = self.n_seeds
        return Batch(
            x={m: rows.first(n) for m, rows in self.x.items()},
            has={m: has[:n] for m, has in self.has.items()},
            library={m: library[:n] for m, library in self.library.items()},
            groups={key: codes[:n] for key, codes in self.groups.items()},
            index=self.index[:n],
            seed=self.seed[:n],
            time=None if self.time is None else self.time[:n],
            rep={m: rows.first(n) for m, rows in self.rep.items()},
            covariates=None if self.covariates is None else self.covariates[:n],
            n_seeds=n,
            filled=self.filled,
        )

    def encoder_rows(self, modality: str) -> Rows:
        """What the encoder of a modality reads, for the cells that have it."""
        rows = self.rep.get(modality)
        if rows is None:
            return self.decoder_rows(modality)
        chosen: Rows = self.of_present(modality, rows)
        return chosen

    def decoder_rows(self, modality: str) -> Rows:
        """What the decoder of a modality is scored on, for the cells that have it."""
        if modality not in self._present:
            self._present[modality] = self.of_present(modality, self.x[modality])
        return self._present[modality]

    @cached_property
    def _present(self) -> dict[str, Rows]:
        """Rows that :meth:`decoder_rows` was asked for: encoders read the same."""
        return {}

    def of_present(self, modality: str, value: Any) -> Any:
        """Those rows of a per-cell tensor or block that belong to cells that have the modality."""
        at = self.at.get(modality)
        if at is None:
            return value
        return value.take_present(at) if isinstance(value, Rows) else value[at]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on a device."""

        def move(values: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value.to(device, non_blocking=non_blocking) for key, value in values.items()}

        def move_one(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device, non_blocking=non_blocking)

        moved = Batch(
            x=move(self.x),
            has=move(self.has),
            library=move(self.library),
            groups=move(self.groups),
            index=self.index.to(device, non_blocking=non_blocking),
            seed=self.seed.to(device, non_blocking=non_blocking),
            time=move_one(self.time),
            rep=move(self.rep),
            covariates=move_one(self.covariates),
            at=move(self.at),
            n_seeds=self.n_seeds,
            filled=self.filled,
        )
        return moved
