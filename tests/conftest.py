"""Shape annotations of the model are checked while the tests run, and that no test leaves more threads behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook(["remadom.core", "remadom.types"], "beartype.beartype")


@pytest.fixture(autouse=True)
def threads_stay() -> Iterator[None]:
    """Other packages set the OpenMP threads that torch shares with them, and every later test is slower."""
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before
