"""Where a check finds its two sides: a run folder, a folder of repetitions, or the record of a leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.leaderboard.reading import read_record
from harness.records.loading import RECORD, is_run, load_run, tell_warnings
from harness.records.schema import RunRecord, Sample, Timing
from harness.regression.pairing import Run


@dataclass(frozen=True)
class Stored:
    """A run as the record of a leaderboard keeps it: no texts, no prompts, no counts of work."""

    record: RunRecord
    samples: Sequence[Sample]
    timings: Sequence[Timing]


def load(path: Path) -> list[Run]:
    """Loads one side of a check; repetitions in the order in which they started.

    Raises:
        UserError: There is no run, or the runs below the folder are not repetitions of one.
    """
    return [_stored(path)] if path.is_file() else _folders(path)


def _stored(path: Path) -> Run:
    if path.name == RECORD:
        raise UserError(f"{path} is one file of a run; give the folder that it lies in.")
    entry = read_record(path)
    record = entry.record
    run = record.run.model_copy(update={"groups": dict(record.groups) or record.run.groups})
    return Stored(run, entry.samples, entry.timings)


def _folders(path: Path) -> list[Run]:
    folders = [path] if is_run(path) else sorted(found.parent for found in path.glob(f"*/{RECORD}"))
    if not folders:
        raise UserError(
            f"{path} is no run: it has no {RECORD}, nor has a folder in it; give the folder of a run, or the record of "
            "a leaderboard."
        )
    loaded = [load_run(folder) for folder in folders]
    tell_warnings(loaded)
    runs: list[Run] = sorted(loaded, key=lambda run: run.record.started_at)
    if len({run.record.identity for run in runs}) > 1:
        raise UserError(f"{path} holds runs of different identities; repetitions of one run belong in a folder each.")
    return runs
