"""Figures of a run; each is a function of plain arrays and a path.

Legends lie outside of the panels, colors can be told apart by color-blind eyes, many points are pixels or a density,
and text from the data is shown as it is.
"""

from remadom.eval.figures.calibration import Intervals, draw_calibration
from remadom.eval.figures.confidence import draw_confidence
from remadom.eval.figures.counts import draw_confusion, draw_degrees, draw_mosaic
from remadom.eval.figures.drawing import DPI, MISSING, MOST_GROUPS, NORMAL, OTHER, PALETTE, SMALL
from remadom.eval.figures.embedding import draw_embedding
from remadom.eval.figures.imputation import draw_imputation
from remadom.eval.figures.losses import draw_losses
from remadom.eval.figures.scores import draw_scores, draw_sweep

__all__ = [
    "DPI",
    "MISSING",
    "MOST_GROUPS",
    "NORMAL",
    "OTHER",
    "PALETTE",
    "SMALL",
    "Intervals",
    "draw_calibration",
    "draw_confidence",
    "draw_confusion",
    "draw_degrees",
    "draw_embedding",
    "draw_imputation",
    "draw_losses",
    "draw_mosaic",
    "draw_scores",
    "draw_sweep",
]
