"""The log of a training run: a line on the terminal, a JSON line in a file, TensorBoard if asked for.

Guarantees that a resumed run's file reads as if it had never stopped: lines behind the checkpoint are dropped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.records.files import explaining, write_atomic
from harness.training.dataset import LeftOut, Reason, left_out_summary

FILE = "log.jsonl"

LEFT_OUT = "left_out/"

_SHOWN = {
    **{"loss": "{:.4f}", "learning_rate": "{:.2e}", "temperature": "{:.3g}", "gates_open": "{:.0%}"},
    **{"held_out_loss": "{:.4f}", "held_out_errors": "{:.0f}"},
    "held_out_left_out": "{:.0f}",
}


class Log:
    """The log of one run; silent in all processes but the first."""

    def __init__(self, folder: Path, step: int, *, progress: bool, tensorboard: bool, writes: bool = True) -> None:
        """Opens the log of a run that stands at `step`.

        Raises:
            UserError: if TensorBoard is asked for and not installed.
        """
        self._file, self._progress, self._writes = folder / FILE, progress and writes, writes
        self._explained: set[Reason] = set()
        self._board = _board(folder / "tensorboard", step) if tensorboard and writes else None
        if writes:
            write_atomic(self._file, "".join(line + "\n" for line in _kept(self._file, step)))

    def write(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        """Records what is known at a step."""
        if not self._writes:
            return
        with explaining(self._file), self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._progress:
            print(_line(step, steps, values), file=sys.stderr, flush=True)

    def explain(self, row: LeftOut) -> None:
        """Says what is wrong with a row, once for each reason."""
        if self._progress and row.reason not in self._explained:
            self._explained.add(row.reason)
            print(f"Left out: {row}", file=sys.stderr, flush=True)

    def say(self, sentence: str) -> None:
        """Says something at the end of a run, asked for progress or not."""
        if self._writes:
            print(sentence, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Flushes what is buffered."""
        if self._board is not None:
            self._board.close()


def _line(step: int, steps: int, values: Mapping[str, Any]) -> str:
    shown = [f"{name} {form.format(values[name])}" for name, form in _SHOWN.items() if name in values]
    shown += [f"{name} {value:.4f}" for name, value in values.items() if name.startswith("accuracy/")]
    counts = {name.removeprefix(LEFT_OUT): value for name, value in values.items() if name.startswith(LEFT_OUT)}
    shown += [left_out_summary(counts)] if counts else []
    if "tokens_per_s" in values:
        minutes, seconds = divmod(int(values["eta_s"]), 60)
        shown.append(f"{values['tokens_per_s']:.0f} tokens/s, {minutes // 60}:{minutes % 60:02}:{seconds:02} left")
    return f"step {step}/{steps}: {', '.join(shown)}"


def _kept(file: Path, step: int) -> list[str]:
    if not file.is_file():
        return []
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a torn last line
            if json.loads(line)["step"] <= step:
                lines.append(line)
    return lines


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("TensorBoard is not installed; install c2c-harness[train] or drop --tensorboard.") from error
    return SummaryWriter(str(folder), purge_step=step + 1)
