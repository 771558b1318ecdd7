"""Progress of a training on the terminal: a line now and then, with the seconds that a phase may still take."""

from __future__ import annotations

import sys
import time

_EVERY_S = 10.0


class Shown:
    """Prints progress as `harness.factworld_build.models.Progress` is called."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def __call__(self, phase: str, step: int, steps: int, loss: float) -> None:
        """Prints a line for the phase where its last one is some seconds old."""
        now = time.monotonic()
        began = self._began.setdefault(phase, now)
        if step == 0 or (now - self._told.setdefault(phase, now) < _EVERY_S and step < steps):
            return
        self._told[phase] = now
        left_s = (now - began) / step * (steps - step)
        line = f"{phase}: step {step} of at most {steps}, loss {loss:.3f}, at most {left_s:.0f} s left"
        print(line, file=sys.stderr, flush=True)
