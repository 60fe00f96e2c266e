"""What the alignment terms of a run did: the contents of ``alignment_metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from remadom.align.groups import GroupHead
from remadom.train.objective import Objective
from remadom.types import Batch


@torch.no_grad()
def alignment_metrics(
    objective: Objective,
    batch: Batch,
    history: Sequence[Mapping[str, Any]],
    groups: Mapping[str, tuple[np.ndarray, tuple[str, ...]]],
) -> dict[str, Any]:
    """A section for each term of the loss beside the ELBO.

    Parameters
    ----------
    objective
        As trained.
    batch
        The cells on which the terms are measured.
    history
        One entry an epoch (see :class:`~remadom.train.callbacks.History`).
    groups
        Codes of all cells, and the names, of each grouping.

    Returns
    -------
    dict
        By term: ``kind``; ``weight`` at the end; ``first_epoch`` and ``last_epoch``, the means of everything that
        it logged while training (``loss``, ``grad_norm`` as a multiple of the ELBO's gradient at the latent, and
        its own); ``final``, the same on ``n_cells`` cells after training, with posterior means for samples; and
        for a head that compares groups ``groups`` (cells of each) and ``by_pair`` (its value for each pair).
    """
    was_training = objective.training
    objective.eval()
    device = next(objective.parameters()).device
    batch = batch.to(device)
    final = objective.probe(batch)
    latent = objective.model.embed(batch)
    sections = {}
    for name, term in objective.terms.items():
        section: dict[str, Any] = {
            "kind": type(term.module).__name__,
            "weight": term.weight.final,
            "first_epoch": _logged(name, history[0]) if history else {},
            "last_epoch": _logged(name, history[-1]) if history else {},
            "n_cells": len(batch),
            "final": final[name],
        }
        if isinstance(term.module, GroupHead):
            key = term.module.levels[-1]
            codes, names = groups[key]
            section["groups"] = {n: int((codes == i).sum()) for i, n in enumerate(names)}
            words = {key: groups[key][1] for key in term.module.levels}
            section["by_pair"] = term.module.by_pair(
                latent.z_bio, batch.groups, words, objective.given(name, batch)
            )
        sections[name] = section
    objective.train(was_training)
    return sections


def _logged(name: str, record: Mapping[str, Any]) -> dict[str, float]:
    means = record.get("train", {})
    return {key.removeprefix(f"{name}."): value for key, value in means.items() if key.startswith(f"{name}.")}
