"""Every model is checked when it is loaded: a small copy of its configuration against plain forward calls."""

from harness.self_check.check import checked

__all__ = ["checked"]
