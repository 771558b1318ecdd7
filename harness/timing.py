"""Seconds of the stages of one answer.

Guarantees that a stage is one call under one timer and that reading the result costs one synchronisation at the
end: on a GPU stages are pairs of CUDA events, on a CPU `perf_counter`. Where models lie on several GPUs no event sees
all of them, so every mark waits for all. A clock that is not asked costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

STAGES = ("sharer_prefill", "sharer_decode", "message_transfer", "fusion", "receiver_prefill", "receiver_decode")


@dataclass
class Clock:
    """Marks of one answer on one device.

    Attributes:
        device: where the work runs; None measures nothing.
    """

    device: torch.device | None = None
    _stages: list[tuple[str, Any, Any]] = field(default_factory=list)
    _marks: dict[str, Any] = field(default_factory=dict)
    _gpus: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.device is not None and self.device.type == "cuda":
            self._gpus = gpus_in_use()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what runs inside under a name of `STAGES`; the same name may come again and adds up."""
        if self.device is None:
            yield
            return
        start = self._now()
        yield
        self._stages.append((name, start, self._now()))

    def mark(self, name: str) -> None:
        """Remembers a moment: ``start``, ``first_token``, ``end``."""
        if self.device is not None:
            self._marks[name] = self._now()

    def stages_s(self) -> dict[str, float]:
        """Seconds by stage, in the order in which they first ran."""
        self._settle()
        seconds: dict[str, float] = {}
        for name, start, end in self._stages:
            seconds[name] = seconds.get(name, 0.0) + self._between_s(start, end)
        return seconds

    def since_start_s(self, name: str) -> float:
        """Seconds from ``start`` to a mark."""
        self._settle()
        return self._between_s(self._marks["start"], self._marks[name])

    def _now(self) -> Any:
        if self.device is not None and self.device.type == "cuda" and len(self._gpus) < 2:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            return event
        self._settle()
        return time.perf_counter()

    def _settle(self) -> None:
        if self.device is not None and self.device.type == "cuda":
            for gpu in self._gpus or (self.device,):
                torch.cuda.synchronize(gpu)

    @staticmethod
    def _between_s(start: Any, end: Any) -> float:
        if isinstance(start, float):
            return float(end - start)
        return float(start.elapsed_time(end)) / 1000.0


def gpus_in_use() -> tuple[int, ...]:
    """Numbers of the GPUs on which this process holds memory."""
    return tuple(number for number in range(torch.cuda.device_count()) if torch.cuda.memory_allocated(number))


def silent_clock() -> Clock:
    """A clock that measures nothing."""
    return Clock(None)


def tpot_s(e2e_s: float, ttft_s: float, tokens_out: int) -> float | None:
    """Seconds per output token after the first; undefined for fewer than two."""
    return (e2e_s - ttft_s) / (tokens_out - 1) if tokens_out >= 2 else None
