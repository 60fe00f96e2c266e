"""The verb behind ``remadom diagnose``: what a file is and what a run on it would do, without running it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from remadom.config.build import Assembly, assemble
from remadom.config.load import Raw
from remadom.results.forecast import Forecast, forecast
from remadom.utils.files import write_text


@dataclass(frozen=True, eq=False)
class Diagnosed:
    """What was found: the assembled run, its diagnosis as plain values, and what it would take."""

    assembly: Assembly
    found: dict[str, Any]
    forecast: Forecast


def diagnose(config: Raw, *, where: str = "", data: Any = None, out: str | Path | None = None) -> Diagnosed:
    """Say what the data is, which settings follow from it, and how long and large a run would be.

    A few steps are trained to time them; what was assembled is left as it was.

    Parameters
    ----------
    config
        Configuration as nested sections: only what is to differ from the defaults and from the plan.
    where
        File that it came from, for messages.
    data
        AnnData, MuData or a mapping of AnnData, in place of ``data.path``.
    out
        JSON file to write what was found to; ``None`` writes nothing.

    Raises
    ------
    InputError
        Anything about configuration or data that cannot work.
    """
    assembly = assemble(config, where=where, data=data)
    taken = forecast(assembly)
    found = {**assembly.described(), "forecast": asdict(taken)}
    if out is not None:
        write_text(out, json.dumps(found, indent=2) + "\n")
    return Diagnosed(assembly, found, taken)
