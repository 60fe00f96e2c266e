"""Shape annotations: jaxtyping's where it is installed (it is a development tool), plain tensors elsewhere.

The axis words are shared by the whole package: ``cell gene peak protein feature latent group edge nonzero``.
They are checked under pytest only (see ``tests/conftest.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:

        class _AnyShape:
            """Stands for an array of any shape: ``Float[Tensor, " cell"]`` is ``Tensor``."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = _AnyShape

__all__ = ["Bool", "Float", "Int"]
