"""The `report` command: tables, leaderboards, page and plots from records."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from textwrap import fill

from harness import leaderboard
from harness.errors import UserError
from harness.paths import program
from harness.records.journal import LoadedRun, load_run, tell_warnings
from harness.report.state import unfinished
from harness.results import arms_of, compare, facts_of, frame, render_all, render_comparison, render_ranking
from harness.results.terminal_table import WIDTH


def report(options: argparse.Namespace) -> int:
    """Prints or writes what was asked for and returns the exit code.

    Raises:
        UserError: a run or a record cannot be read.
    """
    if options.check:
        return _check(options)
    runs = [_at_margin(load_run(path), options.margin) for path in options.runs]
    tell_warnings(runs)
    _views(options, runs)
    for path in options.runs if options.add else ():
        print(f"Wrote {leaderboard.add_record(options.leaderboards_dir, path)}")
    if options.add or not options.runs:
        changed = leaderboard.write(options.leaderboards_dir)
        for path in changed:
            print(f"Wrote {path}")
        if not changed:
            print(f"The pages in {options.leaderboards_dir} are up to date.")
    elif not (options.html or options.plots):
        _print(options, runs)
    return 0


def _at_margin(run: LoadedRun, margin_points: float | None) -> LoadedRun:
    """The same run, read with another margin of sameness."""
    if margin_points is None:
        return run
    config = {**run.record.config, "margin": margin_points}
    return replace(run, record=run.record.model_copy(update={"config": config}))


def _print(options: argparse.Namespace, runs: list[LoadedRun]) -> None:
    """Prints each run's ranking, everything, a comparison of two arms or one question; several runs side by side."""
    for run in runs:
        if not run.samples:
            raise UserError(f"{run.path} has no answers yet; {program()} resume {run.path} goes on with it.")
    for run in runs:
        if said := unfinished(run):
            print(fill(said, WIDTH), end="\n\n")
    if len(runs) > 1 and not (options.compare or options.all or options.question):
        _print_side_by_side(runs)
        return
    for run in runs:
        if len(runs) > 1:
            print(f"\n{run.path}")
        print(_one(options, run))


def _one(options: argparse.Namespace, run: LoadedRun) -> str:
    if options.question:
        from harness.report.question import render_question

        return render_question(run, options.question)
    if options.compare:
        return render_comparison(compare(run.samples, *arms_of(options.compare), facts_of(run.record)))
    return (render_all if options.all else render_ranking)(frame([run]))


def _print_side_by_side(runs: list[LoadedRun]) -> None:
    from harness.regression.side_by_side import render, side_by_side

    first, *others = runs
    for other in others:
        print(f"\nfirst:  {first.path}\nsecond: {other.path}\n{render(side_by_side(first, other))}")


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
        print(f"{name} is not what the records give; run {program()} report and commit.", file=sys.stderr)
    if not differing:
        print("Every page is what its records give.")
    return 1 if differing else 0
