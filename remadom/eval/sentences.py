"""Verdicts on cohorts in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from remadom.eval.verdicts import AGREES, FORCED, KEPT, LITTLE, MIXED, OVERLAP, RESOLUTION, SMALL, of_meeting

MOST_SENTENCES = 12
"""Most pairs that are told in a sentence of their own."""
MOST_NAMES = 8
"""Most types that a sentence names."""


def summary(
    verdict: str,
    pairs: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    met: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Sentences on the whole, on its pairs (the worst first, as they come) and on modalities of the same cells."""
    if len(names) < 2:
        words = ["There is one cohort: nothing to align."]
    else:
        told = {"aligned": "are aligned", "partly": "are partly aligned", "not": "are not aligned"}
        count = [
            f"{sum(pair['verdict'] == v for pair in pairs)} {v}"
            for v in ("aligned", "partly", "not", "unknown")
        ]
        head = (
            f"The cohorts {told[verdict]}"
            if verdict in told
            else "It cannot be known whether the cohorts are aligned"
        )
        words = [f"{head} (pairs of cohorts: {', '.join(count)})."]
        words += [sentence(pair) for pair in pairs[:MOST_SENTENCES]]
        if len(pairs) > MOST_SENTENCES:
            words.append(f"{len(pairs) - MOST_SENTENCES} more pairs, none worse, are in the table.")
    how = {"aligned": "meet", "partly": "meet partly", "not": "do not meet"}
    for cohort, found in met.items():
        for both, score in found.items():
            words.append(
                f"In {cohort}, {both.replace('-', ' and ')} of the same cells {how[of_meeting(score['foscttm'])]}: "
                f"{score['foscttm']:.0%} of the cells are nearer than the true partner (50 % is chance)."
            )
    return words


def sentence(pair: Mapping[str, Any]) -> str:
    """One pair: the verdict, why, and what not to transfer."""
    both = f"{pair['a']} and {pair['b']}"
    head = {
        "aligned": f"Cohorts {both} are aligned",
        "partly": f"Cohorts {both} are partly aligned",
        "not": f"Cohorts {both} are not aligned",
        "unknown": f"It cannot be known whether {both} are aligned",
    }[pair["verdict"]]
    text = f"{head}: {'; '.join(_reasons(pair))}."
    if pair["verdict"] in ("not", "unknown"):
        return f"{text} Do not transfer labels between {both}."
    if pair["do_not_transfer"]:
        named = [*pair["do_not_transfer"][:MOST_NAMES]]
        more = len(pair["do_not_transfer"]) - len(named)
        text += f" Do not transfer labels of these types between {both}: {', '.join(named)}"
        text += f" and {more} more." if more else "."
    return text


def _reasons(pair: Mapping[str, Any]) -> list[str]:
    found = []
    if not pair["modalities"]:
        found.append(_chain(pair))
    elif pair["through"]:
        found.append(
            f"by themselves they cannot be compared; they are linked through {', '.join(pair['through'])}"
        )
    found += [f"by their {m}, {', '.join(_by(pair, found))}" for m, found in pair["modalities"].items()]
    if all(evidence["verdict"] == "unknown" for evidence in pair["modalities"].values()):
        found.append(f"mixing in the embedding is {max(pair['mixing']):.2f} (0 is apart)")
    failing = max(pair["labels"].get("failing", [0.0]))
    if failing > SMALL:
        found.append(
            f"{failing:.0%} of the labeled cells are of types that the other cohort does not give back"
        )
    return found


def _chain(pair: Mapping[str, Any]) -> str:
    why = f"they were not compared themselves ({', '.join(pair['few'])})" if pair["few"] else ""
    if pair["through"]:
        return f"{why or 'they share no modality'}, but are linked through {', '.join(pair['through'])}"
    return why or (
        "no measurement links them; the alignment rests on the assumption that both have the same populations, "
        "related in the same way"
    )


def _by(pair: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What one modality says."""
    mixed = [(found["meets"][i] or 0) + (found["forced"][i] or 0) for i in (0, 1)]
    if max(mixed) < LITTLE:
        reasons = ["their cells lie apart in the embedding"]
    elif found["verdict"] == "unknown":
        return [
            "populations that lie together cannot be told apart "
            f"(resolution {_least(found['resolution']):.1f}, {RESOLUTION:g} is needed)"
        ]
    else:
        reasons = [_agreement(pair, found)]
        if _least(found["mixing"]) < MIXED:
            reasons.append(f"they are mixed by only {_least(found['mixing']):.2f} (1 is fully)")
    for what, told in (
        ("forced", "are mixed with cells that they do not agree with"),
        ("left", "lie apart from a population that corresponds (a batch effect is left)"),
        ("private", "have no counterpart"),
    ):
        of = [
            f"{share:.0%} of {pair[x]}" for x, share in zip("ab", found[what], strict=True) if share > SMALL
        ]
        reasons += [f"{' and '.join(of)} {told}"] if of else []
    return reasons


def _agreement(pair: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    agreement = _least(found["agreement"])
    told = f"cells that lie together agree by {agreement:.2f} (1 is perfectly, 0 not at all)"
    kept = [value for value in found["kept"] if value is not None]
    if len(kept) < 2:
        return told
    if max(kept) < FORCED:
        return f"{told} and the populations of neither cohort are kept"
    if agreement < FORCED or max(value or 0 for value in found["forced"]) > OVERLAP:
        return f"{told}: they were forced together"
    if min(kept) < KEPT * max(kept):
        poorer = pair["ab"[kept.index(min(kept))]]
        return f"{told}, but {poorer} loses structure ({min(kept):.2f} kept, {max(kept):.2f} in the other)"
    return told if agreement >= AGREES else f"{told}; {AGREES} is needed"


def _least(values: Sequence[float | None]) -> float:
    return min((value for value in values if value is not None), default=0.0)
