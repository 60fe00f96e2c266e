"""Several runs side by side: verdicts, scores with the best marked, settings that differ, figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from remadom.errors import InputError
from remadom.eval.report import headline, plain
from remadom.eval.report.folder import RunFolder
from remadom.eval.report.measures import best, measure, pair_titled, titled
from remadom.eval.report.page import Figure, Gallery, Part, Report, Section, Table, Text, Verdict


def compared(runs: Sequence[RunFolder]) -> Report:
    """The report of several runs, the metrics of each in a column.

    Raises
    ------
    InputError
        A configuration is not YAML.
    """
    names = told_apart([run.path for run in runs])
    datasets = {str(run.run.get("data")) for run in runs}
    notes: list[Part] = []
    if len(datasets) > 1:
        words = "These runs read different data: their scores cannot be compared with each other."
        notes.append(Text(words, warning=True))
    return Report(
        title=f"remadom: {len(runs)} runs side by side",
        verdicts=[
            Verdict(run.evaluation["trust"].get("verdict", "unknown"), headline.verdict(run.metrics), name)
            for name, run in zip(names, runs, strict=True)
            if run.evaluation.get("trust")
        ],
        sections=[
            Section("Runs", [*notes, _facts(names, runs)]),
            Section("Scores", _scores(names, runs)),
            Section("Settings that differ", [_settings(names, runs)]),
            Section("Figures", _figures(names, runs)),
        ],
    )


def told_apart(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, with as many before it as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError(
        f"found a run twice among {', '.join(map(str, paths))}; expected different ones, name each once"
    )


def _facts(names: Sequence[str], runs: Sequence[RunFolder]) -> Table:
    keys = ("data", "n_cells", "seed", "epochs", "stopped", "best_epoch", "seconds")
    rows = [[key.replace("_", " "), *(run.run.get(key) for run in runs)] for key in keys]
    return Table("What was run", ["", *names], rows)


def _scores(names: Sequence[str], runs: Sequence[RunFolder]) -> list[Table]:
    """A table for each part of the evaluation that a run has."""
    measured = [_groups(run) for run in runs]
    return [_table(title, names, [found.get(title, {}) for found in measured]) for title in _union(measured)]


def _groups(run: RunFolder) -> dict[str, Mapping[str, Any]]:
    """Scores of a run by the title of their table."""
    evaluation = run.evaluation
    pairs, held = evaluation.get("modalities") or {}, evaluation.get("imputation") or {}
    return {
        "Embedding": evaluation.get("integration") or {},
        "Metrics that the configuration names": evaluation.get("metrics") or {},
        **{pair_titled(pair): scores for pair, scores in pairs.items()},
        **{f"Held-out {titled(name)}": scores for name, scores in held.items()},
        "Losses of the validation cells, nats per cell": run.metrics.get("val") or {},
    }


def _table(title: str, names: Sequence[str], scores: Sequence[Mapping[str, Any]]) -> Table:
    keys = [key for key in _union(scores) if key != "baselines"]
    rows = [
        [measure(key).title, *(plain.words(found.get(key)) for found in scores), measure(key).words]
        for key in keys
    ]
    columns = ["", *names, "what it says"]
    if not any(row[-1] for row in rows):
        rows, columns = [row[:-1] for row in rows], columns[:-1]
    places = {
        (row, at + 1)
        for row, key in enumerate(keys)
        for at in best(key, [found.get(key) for found in scores])
    }
    return Table(title, columns, rows, frozenset(places))


def _union(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _settings(names: Sequence[str], runs: Sequence[RunFolder]) -> Table:
    flat = [_flat(_config(run)) for run in runs]
    keys = [
        key
        for key in sorted(_union(flat))
        if key != "logging.run_dir" and len({json.dumps(found.get(key)) for found in flat}) > 1
    ]
    return Table("Keys", ["key", *names], [[key, *(found.get(key) for found in flat)] for key in keys])


def _config(run: RunFolder) -> Any:
    try:
        return yaml.safe_load(run.config) or {}
    except yaml.YAMLError as error:
        raise InputError(f"the configuration of {run.path} is not YAML ({error}); restore it") from None


def _flat(config: Any, path: str = "") -> dict[str, Any]:
    """Values by their dotted key; a list is one value."""
    if not isinstance(config, Mapping) or not config:
        return {path: json.dumps(config) if isinstance(config, list | Mapping) else config}
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{path}.{key}" if path else str(key))
    return found


def _figures(names: Sequence[str], runs: Sequence[RunFolder]) -> list[Gallery]:
    """One gallery for each file name, in the order of the first run that has it."""
    galleries: dict[str, tuple[str, list[Figure]]] = {}
    for name, run in zip(names, runs, strict=True):
        for shown in run.figures:
            figure = shown.figure
            _, figures = galleries.setdefault(Path(figure.path).name, (figure.title, []))
            figures.append(Figure(name, figure.path, figure.caption))
    return [Gallery(title, figures) for title, figures in galleries.values()]
