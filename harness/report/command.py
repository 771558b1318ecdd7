"""The `report` command: leaderboards, page and plots from records."""

from __future__ import annotations

import argparse
import sys

from harness import leaderboard
from harness.records.loading import LoadedRun, load_run, tell_warnings


def report(options: argparse.Namespace) -> int:
    """Writes what was asked for and returns the exit code.

    Raises:
        UserError: a run or a record cannot be read.
    """
    if options.check:
        return _check(options)
    runs = [load_run(path) for path in options.runs]
    tell_warnings(runs)
    _views(options, runs)
    if options.add:
        for path in options.runs:
            leaderboard.add_record(options.leaderboards_dir, path)
    if options.add or not (options.html or options.plots):
        for path in leaderboard.write(options.leaderboards_dir):
            print(f"Wrote {path}")
    return 0


def _views(options: argparse.Namespace, runs: list[LoadedRun]) -> None:
    if options.html:
        from harness.report.page import write_html

        print(f"Wrote {write_html(runs, options.html)}")
    if options.plots:
        from harness.report.plots import write_plots

        for path in write_plots(runs, options.plots):
            print(f"Wrote {path}")


def _check(options: argparse.Namespace) -> int:
    differing = leaderboard.check(options.leaderboards_dir)
    for name in differing:
        print(f"{name} is not what the records give; run run_eval.py report and commit.", file=sys.stderr)
    if not differing:
        print("Every page is what its records give.")
    return 1 if differing else 0
