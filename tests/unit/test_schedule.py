from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remadom.errors import InputError
from remadom.schedule import SCHEDULES


@pytest.mark.parametrize(
    ("name", "params", "points"),
    [
        ("constant", {"value": 0.3}, {0: 0.3, 9: 0.3}),
        ("linear", {"start": 1.0, "end": 3.0, "epochs": 4}, {0: 1, 1: 1.5, 2.5: 2.25, 4: 3, 99: 3}),
        (
            "cosine",
            {"start": 0.0, "end": 1.0, "epochs": 4},
            {0: 0, 1: (1 - math.sqrt(0.5)) / 2, 2: 0.5, 4: 1, 9: 1},
        ),
        ("cosine_restarts", {"epochs": 2.0, "factor": 2.0}, {0: 0, 1: 0.5, 2: 0, 4: 0.5, 6: 0}),
        (
            "piecewise",
            {"points": ((1, 0.0), (3, 1.0), (4, 0.5))},
            {0: 0, 1: 0, 2: 0.5, 3: 1, 3.5: 0.75, 9: 0.5},
        ),
        (
            "step",
            {"start": 8.0, "factor": 0.5, "every": 2, "end": 1.5},
            {0: 8, 1.9: 8, 2: 4, 4: 2, 6: 1.5, 99: 1.5},
        ),
    ],
)
def test_values_at_known_points(name, params, points):
    schedule = SCHEDULES.build(name, **params)
    assert {epoch: schedule(epoch) for epoch in points} == pytest.approx(points)


@pytest.mark.parametrize("name", [n for n in SCHEDULES if n not in ("cosine_restarts", "step")])
@given(epoch=st.floats(1e3, 1e6))
def test_schedules_end_at_their_final_value(name, epoch):
    schedule = SCHEDULES.build(name)
    assert schedule(epoch) == pytest.approx(schedule.final)


def test_impossible_schedules_are_refused():
    with pytest.raises(InputError, match="must ascend"):
        SCHEDULES.build("piecewise", points=((2, 0.0), (1, 1.0)))
    with pytest.raises(InputError, match="cannot shrink"):
        SCHEDULES.build("cosine_restarts", factor=0.5)
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        SCHEDULES.build("linear", epoch=3)
