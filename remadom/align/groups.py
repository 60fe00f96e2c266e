"""Heads that compare groups of cells: which groups, in which pairs, at which level."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from remadom.align.base import AlignmentHead
from remadom.errors import InputError, nearest
from remadom.schedule import Scheduled
from remadom.shapes import Bool, Float, Int
from remadom.types import Logs

Inputs = Mapping[str, Any]

MIN_CELLS = 2
"""Cells of a group that a batch needs for the group to be compared."""


def levels_of(group_key: str | Sequence[str]) -> tuple[str, ...]:
    """Groupings from coarse to fine; raises :class:`InputError` for none or one twice."""
    levels = (group_key,) if isinstance(group_key, str) else tuple(group_key)
    if not levels or len(set(levels)) < len(levels):
        raise InputError(f"group_key: found {list(levels)}, expected one or more different groupings")
    return levels


def need_groups(levels: Sequence[str], names: Mapping[str, tuple[str, ...]]) -> None:
    """Raise :class:`InputError` where no grouping has two groups."""
    if all(len(names[key]) < 2 for key in levels):
        raise InputError(
            f"the data has one group of {' and '.join(levels)} ({', '.join(names[levels[-1]])}), expected at "
            "least two; choose another group_key, or leave the head out"
        )


def scopes(
    groups: Mapping[str, Int[Tensor, " cell"]], levels: Sequence[str], level: int
) -> Iterator[Tensor | None]:
    """Sets of cells within which the groups of a level are compared: those of one coarser group; ``None`` is all."""
    if level == 0:
        yield None
    else:
        yield from each_group(groups[levels[level - 1]])


def each_group(codes: Int[Tensor, " cell"]) -> Iterator[Bool[Tensor, " cell"]]:
    """The cells of each group."""
    for code in torch.unique(codes).tolist():
        if code >= 0:
            yield codes == code


class GroupHead(AlignmentHead):
    """Compares groups of cells in pairs; the loss is the mean over the pairs, and over the levels.

    Parameters
    ----------
    group_key
        Grouping of the cells: ``batch``, ``dataset``, ``modality`` (which modalities a cell has) or a column of
        obs. A list goes from coarse to fine, ``[dataset, batch]``: batches are compared within their data set
        and data sets as wholes.
    pairs
        ``all`` pairs of groups, each group against the ``reference``, or each against the pooled ``rest``.
    reference
        Group that the others are compared with where ``pairs`` is ``reference``; null is the largest in a batch.
    max_pairs
        At most this many pairs in a step; where there are more, others are drawn each time.
    """

    def __init__(
        self,
        *,
        weight: Scheduled = 0.1,
        group_key: str | tuple[str, ...] = "batch",
        pairs: Literal["all", "reference", "rest"] = "all",
        reference: str | None = None,
        max_pairs: PositiveInt = 6,
    ) -> None:
        super().__init__(weight=weight)
        self.levels = levels_of(group_key)
        self.pairs, self.reference, self.max_pairs = pairs, reference, max_pairs
        self.reference_code: int | None = None
        self.n_groups: dict[str, int] = {}

    @property
    def group_keys(self) -> tuple[str, ...]:
        return self.levels

    def connect(self, names: Mapping[str, tuple[str, ...]], latent_dim: int) -> None:
        need_groups(self.levels, names)
        self.n_groups = {key: len(names[key]) for key in self.levels}
        finest = self.levels[-1]
        if self.reference is not None:
            if self.reference not in names[finest]:
                raise InputError(
                    f"reference: unknown {finest} {self.reference!r}: {nearest(self.reference, names[finest])}"
                )
            self.reference_code = names[finest].index(self.reference)

    @abstractmethod
    def compare(self, x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor, aux: Inputs) -> Float[Tensor, ""]:
        """How far two groups are apart, in squared distance or as a divergence.

        Parameters
        ----------
        x, y
            Latents of the two groups, cell x latent.
        at_x, at_y
            Their places in the batch.
        aux
            Every input that the run gives, by name.
        """

    def over_pairs(
        self,
        z_bio: Float[Tensor, "cell latent"],
        groups: Mapping[str, Int[Tensor, " cell"]],
        aux: Inputs,
    ) -> tuple[Tensor, Logs]:
        """Mean of :meth:`compare` over the pairs of each level, and over the levels; and what was compared."""
        total = 0.0 * z_bio.sum()  # part of the graph even where nothing can be compared
        n_levels, n_pairs, skipped = 0, 0, 0
        for level, key in enumerate(self.levels):
            found: list[tuple[Tensor, Tensor]] = []
            for inside in scopes(groups, self.levels, level):
                members, small = self._members(groups[key], inside)
                skipped += small
                found += self._choose_pairs(members, level == len(self.levels) - 1)
            if len(found) > self.max_pairs:
                found = [found[i] for i in torch.randperm(len(found))[: self.max_pairs].tolist()]
            if not found:
                continue
            n_levels += 1
            n_pairs += len(found)
            total = total + self.mean_over(z_bio, found, aux)
        loss = total / max(1, n_levels)
        logs = {"n_pairs": torch.tensor(float(n_pairs)), "skipped_groups": torch.tensor(float(skipped))}
        return loss, logs

    def mean_over(
        self, z_bio: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], aux: Inputs
    ) -> Float[Tensor, ""]:
        """Mean of :meth:`compare` over pairs of groups, given by the places of their cells."""
        return torch.stack([self.compare(z_bio[a], z_bio[b], a, b, aux) for a, b in pairs]).mean()

    @torch.no_grad()
    def by_pair(
        self, z_bio: Tensor, groups: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]], aux: Inputs
    ) -> dict[str, float]:
        """Raw value of every pair of groups of the finest level, by their names."""
        key = self.levels[-1]
        members, _ = self._members(groups[key], None)
        return {
            f"{names[key][a]} | {names[key][b]}": float(
                self.compare(z_bio[members[a]], z_bio[members[b]], members[a], members[b], aux)
            )
            for a, b in combinations(sorted(members), 2)
        }

    @staticmethod
    def _members(codes: Tensor, inside: Tensor | None) -> tuple[dict[int, Tensor], int]:
        """Places of the cells of each group that has enough of them, and the number of groups that have not."""
        within = codes if inside is None else torch.where(inside, codes, -1)
        counted = within.cpu()  # each look at values on a GPU would wait for it
        members, small = {}, 0
        for code in torch.unique(counted).tolist():
            if code < 0:
                continue
            at = (counted == code).nonzero().squeeze(1)
            if len(at) < MIN_CELLS:
                small += 1
            else:
                members[int(code)] = at.to(codes.device)
        return members, small

    def _choose_pairs(self, members: dict[int, Tensor], finest: bool) -> list[tuple[Tensor, Tensor]]:
        if len(members) < 2:
            return []
        if self.pairs == "all" or len(members) == 2:
            return [(members[a], members[b]) for a, b in combinations(sorted(members), 2)]
        if self.pairs == "rest":
            return [
                (at, torch.cat([other for b, other in members.items() if b != a]))
                for a, at in members.items()
            ]
        largest = max(members, key=lambda code: len(members[code]))
        chosen = self.reference_code if finest and self.reference_code in members else largest
        return [(members[chosen], at) for code, at in members.items() if code != chosen]
