"""What came out of a run, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remadom.eval.report import imputed
from remadom.eval.report.measures import BALANCED, known, pair_titled, titled


def headline(metrics: Mapping[str, Any]) -> list[str]:
    """The main figures of a run in sentences, from its ``metrics.final.json``: first whether to trust it."""
    return [*verdict(metrics), *results(metrics)]


def verdict(metrics: Mapping[str, Any]) -> list[str]:
    """Whether the cohorts are aligned, and for which types labels must not be transferred."""
    trust = (metrics.get("evaluation") or {}).get("trust") or {}
    return list(trust.get("words") or [])


def results(metrics: Mapping[str, Any]) -> list[str]:
    """What was measured."""
    evaluation = metrics.get("evaluation") or {}
    return [
        *_of_embedding(evaluation.get("integration") or {}),
        *(_of_pair(pair, scores) for pair, scores in (evaluation.get("modalities") or {}).items()),
        *(imputed.line(name, scores) for name, scores in (evaluation.get("imputation") or {}).items()),
    ]


def _of_embedding(measured: Mapping[str, Any]) -> list[str]:
    scores = {name: value for name, value in measured.items() if value is not None}
    lines = []
    if "knn_purity" in scores:
        lines.append(
            f"{scores['knn_purity']:.1%} of a cell's 15 nearest cells share its label "
            f"(chance: {scores['knn_purity_chance']:.1%})."
        )
    if "nmi" in scores and "ari" in scores:
        lines.append(
            f"Clusters ({scores.get('clustering', 'unnamed')}) agree with the labels: NMI {scores['nmi']:.2f}, "
            f"ARI {scores['ari']:.2f} (1: equal)."
        )
    if "ilisi" in scores:
        ilisi = scores["ilisi"]
        words = "lie apart" if ilisi < 0.1 else "mix in part" if ilisi < 0.4 else "mix"
        lines.append(
            f"The batches {words}: iLISI {ilisi:.2f} (0: no cell has neighbors of another batch, 1: even)."
        )
    if "total" in scores:
        lines.append(
            f"All scores together: {scores['total']:.2f} (biology {scores['bio']:.2f}, "
            f"batches {scores['batch']:.2f})."
        )
    return lines


def _of_pair(pair: str, scores: Mapping[str, Any]) -> str:
    said = []
    if known(scores.get("foscttm")):
        said.append(f"{scores['foscttm']:.1%} of the cells are nearer than the true partner (chance: 50%)")
    for name, score in scores.items():
        source, to, target = name.removeprefix("label_transfer_").partition("_to_")
        if to and name.startswith("label_transfer_") and not name.endswith(BALANCED) and known(score):
            said.append(
                f"{score:.1%} of the {titled(target)} cells get their own label from {titled(source)} cells"
            )
    return f"{pair_titled(pair)}: {', '.join(said) or 'no score is defined'}."
