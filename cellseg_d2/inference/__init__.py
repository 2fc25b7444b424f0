"""Prediction of whole images: ``segment`` in one call, :mod:`.predictor` and :mod:`.folder` for many.

torch is loaded only when ``segment`` is first used, because the modules that join tiles do not need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellseg_d2.inference.one_image import segment

__all__ = ["segment"]


def __getattr__(name: str) -> Any:
    """Loads ``segment`` on first use (PEP 562)."""
    if name != "segment":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cellseg_d2.inference.one_image import segment

    return segment
