"""Shape annotations of the model are checked while the tests run, and no test leaves more threads behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jaxtyping import install_import_hook

install_import_hook(["remadom.core", "remadom.types"], "beartype.beartype")


@pytest.fixture(autouse=True)
def threads_stay() -> Iterator[None]:
    """Packages that a test calls set the OpenMP threads that torch shares with them; later tests would be slower."""
    from remadom.utils.threads import threads_kept  # after the hook

    with threads_kept():
        yield
