"""What values a likelihood is one of."""

from __future__ import annotations

from typing import Literal

Support = Literal["counts", "events", "real", "fractions"]
"""Whole numbers from 0 on; numbers from 0 on of which only "above 0" is read; any numbers; numbers from 0 to 1."""
