"""Cells of successive times: couplings between them, and an order along the latent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn.functional import softplus

from remadom.align.base import HEADS, AlignmentHead
from remadom.align.groups import MIN_CELLS, each_group, levels_of
from remadom.errors import InputError, nearest
from remadom.schedule import Scheduled, schedule_of
from remadom.shapes import Float, Int
from remadom.solvers.ot import OtSolver
from remadom.solvers.spread import TINY, mean_square
from remadom.types import Logs


@HEADS.register("temporal")
class TemporalHead(AlignmentHead):
    """Short moves between successive times under an optimal transport coupling, and an order of the times.

    Between two successive times of the batch an entropic plan is solved on the latent (Waddington-OT, Schiebinger
    et al., Cell 2019, doi:10.1016/j.cell.2019.01.006). The marginal of the earlier time may bend, so that lineages
    grow or die out; that of the later time is kept. The loss is the mean squared move under the plan over the
    mean squared distance of the two times: 1 is a coupling that knows nothing. The order term is the logistic loss
    that a learned direction of the latent ranks two cells as their times do, over its value for a guess.

    Parameters
    ----------
    epsilon
        Entropy of the plan in units of the mean squared distance: a number or a schedule.
    growth
        How far the earlier marginal may bend, as a reach in units of the root mean squared distance: the smaller,
        the freer. Null keeps it (no growth).
    order
        Weight of the order term beside the moves.
    group_key
        Grouping of the cells within which times are coupled, such as ``dataset`` or a column of obs with the donors;
        a list goes from coarse to fine and couples within the groups of each. Null couples all cells of two times.
    source
        What the couplings are solved on: the ``latent``, which they then change, or the fixed features of a
        modality (principal components), which keep the latent's moves to those of the measurements.
    """

    def __init__(
        self,
        *,
        weight: Scheduled = 0.3,
        epsilon: Scheduled = 0.05,
        growth: PositiveFloat | None = 1.0,
        order: NonNegativeFloat = 0.1,
        group_key: str | tuple[str, ...] | None = None,
        source: str = "latent",
    ) -> None:
        super().__init__(weight=weight)
        self.levels = () if group_key is None else levels_of(group_key)
        self.source = source
        self.epsilon, self.growth, self.order = schedule_of(epsilon, "epsilon"), growth, order
        self.direction = nn.Linear(1, 1)
        self.solver = OtSolver()

    @property
    def group_keys(self) -> tuple[str, ...]:
        return ("time", *self.levels)

    def connect(self, names: Mapping[str, tuple[str, ...]], latent_dim: int) -> None:
        if len(names["time"]) < 2:
            raise InputError(
                f"the data has one time ({', '.join(names['time']) or 'none'}), expected at least two; "
                "see data.time_key, or leave the head out"
            )
        self.direction = nn.Linear(latent_dim, 1)

    def forward(
        self,
        z_bio: Float[Tensor, "cell latent"],
        time: Float[Tensor, " cell"],
        epoch: float = float("inf"),
        features: Mapping[str, Float[Tensor, "cell component"]] | None = None,
        groups: Mapping[str, Int[Tensor, " cell"]] | None = None,
    ) -> tuple[Tensor, Logs]:
        points, known = self._points(z_bio, features)
        whole = torch.where(known, time, torch.nan)
        within = [[whole]]
        if self.levels:
            assert groups is not None, "times are coupled within groups: groups are needed"
            within = [
                [torch.where(own, whole, torch.nan) for own in each_group(groups[k])] for k in self.levels
            ]
        found, epsilon = [], self.epsilon.at(epoch)
        for level in within:
            each = [move for times in level for move in self._moves(z_bio, points, times, epsilon)]
            found += [torch.stack(each)] if each else []
        n_pairs = sum(map(len, found))
        moves = sum((level.mean() for level in found), 0.0 * z_bio.sum()) / max(1, len(found))
        ranked = self._order(z_bio, time) if self.order else 0.0 * z_bio.sum()
        logs = {"moves": moves.detach(), "order": ranked.detach(), "n_pairs": torch.tensor(float(n_pairs))}
        return moves + self.order * ranked, logs

    def _moves(self, z_bio: Tensor, points: Tensor, time: Tensor, epsilon: float) -> Iterator[Tensor]:
        """Mean squared move between every two successive times, over the mean squared distance of the two."""
        for _, _, earlier, later in successive(time):
            x, y = z_bio[earlier], z_bio[later]
            plan = self.couple(points[earlier], points[later], epsilon)
            mass = plan / plan.sum().clamp(min=TINY)
            square = (
                mass.sum(1) @ x.square().sum(1)
                + mass.sum(0) @ y.square().sum(1)
                - 2 * (mass * (x @ y.T)).sum()
            )
            yield square / mean_square(x, y)

    @torch.no_grad()
    def couple(self, x: Tensor, y: Tensor, epsilon: float | None = None) -> Float[Tensor, "earlier later"]:
        """Coupling of the cells of an earlier time with those of a later one; its column sums are equal."""
        scale = float(mean_square(x.detach(), y.detach()))
        epsilon = (self.epsilon.final if epsilon is None else epsilon) * scale
        reach = None if self.growth is None else (self.growth * scale**0.5, None)
        return self.solver.plan(x, y, epsilon=max(epsilon, TINY), reach=reach)[0]

    @torch.no_grad()
    def couplings(
        self, z_bio: Float[Tensor, "cell latent"], time: Float[Tensor, " cell"]
    ) -> dict[tuple[float, float], tuple[Tensor, Tensor, Tensor]]:
        """For every two successive times the places of the earlier and the later cells, and their coupling."""
        return {
            (t0, t1): (earlier, later, self.couple(z_bio[earlier], z_bio[later]))
            for t0, t1, earlier, later in successive(time)
        }

    def _points(self, z_bio: Tensor, features: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
        """What the couplings are solved on, and which cells have it."""
        if self.source == "latent":
            return z_bio.detach(), torch.ones(len(z_bio), dtype=torch.bool, device=z_bio.device)
        if self.source not in (features or {}):
            raise InputError(
                f"temporal: source is '{self.source}': {nearest(self.source, ['latent', *(features or {})])}"
            )
        assert features is not None
        return features[self.source], (features[self.source] != 0).any(1)

    def _order(self, z_bio: Tensor, time: Tensor) -> Tensor:
        known = time.isfinite().nonzero().squeeze(1)
        score, t = self.direction(z_bio[known]).squeeze(1), time[known]
        partner = torch.randint(max(1, len(known)), (len(known),)).to(z_bio.device)
        sign = torch.sign(t - t[partner])
        if len(known) == 0 or not bool(sign.any()):
            return 0.0 * z_bio.sum() + 0.0 * sum(p.sum() for p in self.direction.parameters())
        loss = softplus(-sign * (score - score[partner])) * sign.abs()
        guess: float = torch.log(torch.tensor(2.0)).item()
        return loss.sum() / sign.abs().sum() / guess


def successive(time: Tensor) -> Iterator[tuple[float, float, Tensor, Tensor]]:
    """Successive times that have enough cells, with the places of their cells."""
    times = torch.unique(time[time.isfinite()]).tolist()
    places = {t: (time == t).nonzero().squeeze(1) for t in times}
    enough = [t for t in times if len(places[t]) >= MIN_CELLS]
    for t0, t1 in pairwise(enough):
        yield t0, t1, places[t0], places[t1]
