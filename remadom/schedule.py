"""Schedules: a value as a function of training progress, measured in epochs (fractions included)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat

from remadom.errors import InputError, nearest
from remadom.registry import Registry


class Schedule(ABC):
    """A value for each point of the training, ``schedule(epoch)`` with ``epoch`` a float from 0."""

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """Value at a point of the training."""

    def at(self, epoch: float) -> float:
        """Value at a point of the training; at infinity, the value at the end of the schedule."""
        return self.final if epoch == math.inf else self(epoch)

    @property
    @abstractmethod
    def final(self) -> float:
        """Value at the end of the schedule, for losses that must be comparable between epochs."""


SCHEDULES: Registry[Schedule] = Registry("schedule")

Scheduled = NonNegativeFloat | dict[str, Any]
"""A setting that may change over the training: a number, or ``{schedule: name, ...}`` with its parameters."""


def schedule_of(value: Scheduled, where: str = "") -> Schedule:
    """Schedule of a setting: a number is constant.

    Raises
    ------
    InputError
        Unknown schedule, unknown parameter or impossible value; the message starts with ``where``.
    """
    if not isinstance(value, dict):
        return Constant(value=value)
    params = dict(value)
    name = params.pop("schedule", "linear")
    if name not in SCHEDULES:
        raise InputError(f"{where}.schedule: unknown {name!r}: {nearest(str(name), SCHEDULES)}")
    return SCHEDULES.build(name, **SCHEDULES.section(name, params, where).model_dump())


@SCHEDULES.register("constant")
class Constant(Schedule):
    """The same value throughout.

    Parameters
    ----------
    value
        The value.
    """

    def __init__(self, *, value: float = 1.0) -> None:
        self.value = value

    def __call__(self, epoch: float) -> float:
        return self.value

    @property
    def final(self) -> float:
        return self.value


class Ramp(Schedule):
    """From one value to another within some epochs, then constant; the shape is the subclass's.

    Parameters
    ----------
    start
        Value at the beginning.
    end
        Value from ``epochs`` on.
    epochs
        Length of the ramp.
    """

    def __init__(self, *, start: float = 0.0, end: float = 1.0, epochs: PositiveFloat = 10.0) -> None:
        self.start, self.end, self.epochs = start, end, epochs

    @abstractmethod
    def shape(self, progress: float) -> float:
        """Share of the way covered at ``progress``, both from 0 to 1."""

    def __call__(self, epoch: float) -> float:
        progress = min(1.0, epoch / self.epochs)
        return self.start + (self.end - self.start) * self.shape(progress)

    @property
    def final(self) -> float:
        return self.end


@SCHEDULES.register("linear")
class Linear(Ramp):
    """A straight ramp: the usual warm-up."""

    def shape(self, progress: float) -> float:
        return progress


@SCHEDULES.register("cosine")
class Cosine(Ramp):
    """Half a cosine: slow at both ends."""

    def shape(self, progress: float) -> float:
        return 0.5 * (1 - math.cos(math.pi * progress))


@SCHEDULES.register("cosine_restarts")
class CosineRestarts(Schedule):
    """A half cosine from ``start`` to ``end`` that begins anew (cyclical annealing, Fu et al. 2019).

    Parameters
    ----------
    start
        Value at the beginning of each cycle.
    end
        Value at the end of each cycle.
    epochs
        Length of the first cycle.
    factor
        Each cycle is this many times as long as the one before.
    """

    def __init__(
        self,
        *,
        start: float = 0.0,
        end: float = 1.0,
        epochs: PositiveFloat = 10.0,
        factor: PositiveFloat = 1.0,
    ) -> None:
        if factor < 1:
            raise InputError(f"cosine_restarts: factor is {factor}, but cycles cannot shrink; give 1 or more")
        self.start, self.end, self.epochs, self.factor = start, end, epochs, factor

    def __call__(self, epoch: float) -> float:
        begin, length = 0.0, self.epochs
        while epoch >= begin + length:
            begin, length = begin + length, length * self.factor
        return Cosine(start=self.start, end=self.end, epochs=length)(epoch - begin)

    @property
    def final(self) -> float:
        return self.end


@SCHEDULES.register("piecewise")
class Piecewise(Schedule):
    """Straight lines between given points.

    Parameters
    ----------
    points
        Pairs ``(epoch, value)`` in ascending order of epoch.
    """

    def __init__(
        self, *, points: tuple[tuple[NonNegativeFloat, float], ...] = ((0.0, 0.0), (10.0, 1.0))
    ) -> None:
        if not points or any(a[0] >= b[0] for a, b in pairwise(points)):
            raise InputError(f"piecewise: the epochs of points must ascend, found {[p[0] for p in points]}")
        self.points = points

    def __call__(self, epoch: float) -> float:
        if epoch <= self.points[0][0]:
            return self.points[0][1]
        for (e0, v0), (e1, v1) in pairwise(self.points):
            if epoch <= e1:
                return v0 + (v1 - v0) * (epoch - e0) / (e1 - e0)
        return self.final

    @property
    def final(self) -> float:
        return self.points[-1][1]


@SCHEDULES.register("step")
class Step(Schedule):
    """A value that is multiplied by a factor every so many epochs.

    Parameters
    ----------
    start
        Value at the beginning.
    factor
        Multiplier at each step.
    every
        Epochs between steps.
    end
        The value does not pass this bound (``None``: no bound).
    """

    def __init__(
        self,
        *,
        start: PositiveFloat = 1.0,
        factor: PositiveFloat = 0.5,
        every: PositiveFloat = 10.0,
        end: float | None = None,
    ) -> None:
        self.start, self.factor, self.every, self.end = start, factor, every, end

    def __call__(self, epoch: float) -> float:
        value = self.start * self.factor ** math.floor(epoch / self.every)
        if self.end is None:
            return value
        return max(value, self.end) if self.factor < 1 else min(value, self.end)

    @property
    def final(self) -> float:
        return self.start if self.end is None else self.end
