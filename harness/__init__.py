"""What one language model gains when another one talks to it, and what that costs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import Result, evaluate
    from harness.errors import RunError, UserError

__version__ = "0.1.0"

__all__ = ["Result", "RunError", "UserError", "__version__", "evaluate"]

# Imported when they are asked for, so that `import harness` stays light.
_PUBLIC = {
    "Result": "harness.api",
    "RunError": "harness.errors",
    "UserError": "harness.errors",
    "evaluate": "harness.api",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
