"""Shape annotations of the model are checked while the tests run."""

from __future__ import annotations

from jaxtyping import install_import_hook

install_import_hook(["remadom.core", "remadom.types"], "beartype.beartype")
