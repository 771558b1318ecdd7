"""What a run found, as frames, text and a page; the numbers are those of the command line and the boards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import fill

import pandas as pd

from harness import results
from harness.errors import UserError
from harness.paths import program
from harness.records.journal import LoadedRun, load_run
from harness.report.state import unfinished
from harness.results.formatting import arm_text
from harness.results.terminal_table import WIDTH

EFFECT_COLUMNS: Mapping[str, str] = {
    "task": "task or group",
    "channel": "channel under which the comparison is reported",
    "comparison": "what it is called: 'vs receiver', 'vs T2T', 'content', ...",
    "arm": "channel and control whose accuracy it is",
    "base": "channel and control that is subtracted",
    "difference": "difference of accuracies, as a fraction",
    "low": "lower bound of its 95% interval",
    "high": "upper bound of its 95% interval",
    "p": "exact p, two-sided",
    "p_holm": "the same, adjusted by Holm over all comparisons of the run",
    "wins": "questions that the arm alone has right",
    "losses": "questions that the base alone has right",
    "n": "questions compared",
    "left_out": "questions left out: an error on either side, or not asked",
    "minimum_detectable": "smallest difference found with 80% power at `level`, as a fraction",
    "level": "what Holm leaves to each test",
    "verdict": "in words",
}
"""Column of `Result.effects` -> what it holds."""

_NUMBERS = ("difference", "low", "high", "p", "p_holm", "minimum_detectable", "level")


@dataclass(frozen=True, eq=False)
class Result:
    """A run, as a rule a finished one.

    Usage:
        result = harness.evaluate(receiver="my/model", tasks=["openbookqa"])
        print(result)
        result.frame()[["arm", "accuracy", "accuracy_low", "accuracy_high"]]

    Attributes:
        run: the record with every answer and every timing.
    """

    run: LoadedRun

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Result:
        """Reads the folder of a run.

        Raises:
            UserError: it is none, or nothing was answered yet.
        """
        run = load_run(Path(path))
        if not run.samples:
            raise UserError(f"{run.path} has no answers yet; {program()} resume {run.path} goes on with it.")
        return cls(run)

    @property
    def path(self) -> Path:
        """The run's folder; a temporary one lives as long as this object."""
        return self.run.path

    def frame(self) -> pd.DataFrame:
        """Returns a row a task and arm; columns as `harness.results.COLUMNS` describes them, nothing rounded."""
        return results.frame([self.run])

    def table(self, everything: bool = False) -> str:
        """Returns the terminal's ranking and verdict of each task, or every row and difference; 80 columns wide.

        Of a run that has not finished it begins with how far it came.
        """
        table = (results.render_all if everything else results.render_ranking)(self.frame())
        return "\n\n".join(filter(None, [fill(unfinished(self.run), WIDTH), table]))

    def effects(self) -> pd.DataFrame:
        """Returns a row a paired difference of two arms; columns as `EFFECT_COLUMNS` describes them."""
        found = results.effects(self.run.samples, results.facts_of(self.run.record))
        named = ({"comparison": one.title, "arm": arm_text(*one.arm), "base": arm_text(*one.base)} for one in found)
        rows = [asdict(one) | names for one, names in zip(found, named, strict=True)]
        table = pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))
        numbers: pd.DataFrame = table.astype(dict.fromkeys(_NUMBERS, "float64"))
        return numbers

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Writes the HTML page, one self-contained file, and returns where it is.

        Raises:
            UserError: the path cannot be written.
        """
        from harness.report.page import write_html

        return write_html([self.run], Path(path))

    def __str__(self) -> str:
        """The ranking and verdict."""
        return self.table()

    def __repr__(self) -> str:
        """Where it is and what it is about, in one line."""
        config = self.run.record.config
        asked = ", ".join(f"{name}={list(config.get(name, ()))}" for name in ("channels", "tasks"))
        return f"Result({str(self.path)!r}, {asked})"
