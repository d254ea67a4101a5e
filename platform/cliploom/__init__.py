"""Train CLIP on your own image-text pairs, and know whether the model is good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cliploom.loading import list_models, load

__all__ = ["list_models", "load"]


def __getattr__(name: str) -> Any:
    """The public functions, imported when first asked for: torch takes seconds, and a job's --help needs none of it."""
    if name in __all__:
        from cliploom import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
