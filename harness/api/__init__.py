"""The harness from Python: `evaluate` runs, `Result` holds what came of it."""

from harness.api.main import evaluate
from harness.api.result import Result

__all__ = ["Result", "evaluate"]
