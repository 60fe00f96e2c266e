"""What a data set is, before anything is learned from it: its cohorts and problem, and what is odd about its values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from remadom.data.checks import of_cohorts, of_columns, of_values
from remadom.data.problem import Cohort, Links, Problem, cohorts_of, links_of, problem_of, together
from remadom.data.source import Source
from remadom.data.values import Measured, measured


@dataclass(frozen=True)
class Diagnosis:
    """What a data set is.

    Attributes
    ----------
    cohorts
        Cells of one batch with the same modalities.
    problem
        Its type and why.
    links
        How the cohorts hang together.
    modalities
        The values by modality.
    checks
        What a user should know before training, a sentence each.
    """

    cohorts: tuple[Cohort, ...]
    problem: Problem
    links: Links
    modalities: dict[str, Measured]
    checks: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as ``diagnosis.json`` holds them."""
        links = self.links
        return {
            "problem": {
                "type": self.problem.kind,
                "why": self.problem.why,
                "also": dict(self.problem.others),
            },
            "cohorts": [
                {
                    "dataset": c.dataset,
                    "batch": c.batch,
                    "modalities": together(c.modalities),
                    "cells": c.cells,
                    "labeled": c.labeled,
                    "labels": dict(c.labels),
                }
                for c in self.cohorts
            ],
            "links": {
                "connected": links.connected,
                "parts": [together(part) for part in links.parts],
                "shared_cells": dict(links.shared),
                **(
                    {}
                    if links.thinnest is None
                    else {
                        "thinnest": " | ".join(map(together, links.thinnest.sides)),
                        "thinnest_cells": links.thinnest.cells,
                        "thinnest_cohorts": list(links.thinnest.cohorts),
                    }
                ),
            },
            "lost": list(links.lost),
            "modalities": {name: asdict(values) for name, values in self.modalities.items()},
            "checks": list(self.checks),
        }


def diagnose(source: Source, *, batch_key: str, dataset_key: str, label_key: str) -> Diagnosis:
    """Diagnose the cells of a source; its values are passed over once, in blocks.

    Parameters
    ----------
    source
        As read, with held-out values hidden.
    batch_key, dataset_key, label_key
        Columns of obs; one that obs has not is one group, or no labels.

    Raises
    ------
    InputError
        A cell has no batch or data set.
    """
    cohorts = cohorts_of(source, batch_key, dataset_key, label_key)
    batch, names = source.codes(batch_key, required=False)
    modalities = {m: measured(source, m, batch, names) for m in source.modalities if source.has[m].any()}
    return Diagnosis(
        cohorts,
        problem_of(cohorts, source.modalities),
        links_of(cohorts, source.modalities),
        modalities,
        (
            *of_columns(source.obs, batch_key),
            *of_values(modalities),
            *of_cohorts(cohorts, source.modalities),
        ),
    )
