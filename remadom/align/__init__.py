"""Alignment heads: what makes cells of different measurements meet."""

from remadom.align.adversarial import AdversarialHead
from remadom.align.base import HEADS, AlignmentHead
from remadom.align.crossgraph import CrossGraphHead
from remadom.align.gromov import GWHead
from remadom.align.mmd import MMDHead
from remadom.align.posterior import PosteriorHead
from remadom.align.temporal import TemporalHead
from remadom.align.transport import OTHead, SinkhornHead

__all__ = [
    "HEADS",
    "AdversarialHead",
    "AlignmentHead",
    "CrossGraphHead",
    "GWHead",
    "MMDHead",
    "OTHead",
    "PosteriorHead",
    "SinkhornHead",
    "TemporalHead",
]
