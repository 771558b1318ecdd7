"""Older name of `python -m harness.lm_eval_bridge`."""

from harness.lm_eval_bridge.__main__ import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
