"""The command line: names, flags and exit codes; everything heavy is imported by the command that needs it.

Guarantees that bad input ends in one sentence on standard error and exit code 2, a failed run in one sentence and
exit code 1, and that `--help` costs no import of torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import __version__
from harness.cli.libraries import uncollected
from harness.cli.parser import Parser, declared
from harness.distributed import leave
from harness.errors import UserError, ended, unknown
from harness.paths import RECIPE_FILE, program
from harness.progress import stage

if TYPE_CHECKING:
    from harness.config import RunConfig

_SUMMARY = {
    "run": "compare channels on tasks; without flags the embedded pair on its own task",
    "resume": "go on with a run or a training that was stopped",
    "report": "print a run's results, add it to the leaderboards, write a page or plots",
    "check": "compare a run with a baseline: exit 0 same or better, 1 regression, 2 not comparable, 3 not shown",
    "import": "add results of others to the leaderboards, question by question",
    "train": "train a fuser for a pair",
    "train-demo": "build the embedded pair from nothing",
    "bench": "time the channels, or training, against the floor of this machine",
    "convert": "convert a fuser between the original's format and ours",
    "ls": "list tasks, channels with their options, controls, forms of fusers, and runs with their state",
}


_PLUGGED = ("run", "resume", "report", "check", "train", "bench", "ls")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return ended(lambda: _dispatch(given))
    except KeyboardInterrupt:
        print("Cancelled; --resume goes on where it stopped.", file=sys.stderr)
        return 130
    finally:
        leave()


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if given == ["--version"]:
        print(f"c2c-harness {__version__}")
        return 0
    name, rest = given[0], given[1:]
    commands = _commands()
    if name not in commands:
        raise unknown("command", name, commands)
    if name in _PLUGGED:
        _load_plugins(rest)
    return commands[name](rest)


def _load_plugins(rest: list[str]) -> None:
    """Loads plug-ins before flags are read, since a flag may name what they bring."""
    if not declared(rest, "--plugin"):
        return
    from harness.registry import load_plugins

    parser = Parser()
    _declare_plugin(parser)
    load_plugins(parser.parse_known_args(rest)[0].plugin)


def _declare_plugin(parser: argparse.ArgumentParser) -> None:
    about = "module or file with channels, controls, fusers, tasks; may be given several times"
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help=about)


def _overview() -> str:
    commands = "\n".join(f"  {name:<11} {text}" for name, text in _SUMMARY.items())
    return (
        f"usage: {program()} COMMAND [flags]\n\n"
        "Measures what one language model gains when another one talks to it, and what that costs.\n\n"
        f"{commands}\n\n{program()} COMMAND --help shows a command's flags."
    )


def _commands() -> dict[str, Callable[[list[str]], int]]:
    own = [_run, _resume, _report, _check, _import, _train, _train_demo, _bench, _convert, _ls]
    return dict(zip(_SUMMARY, own, strict=True))


def _parser(name: str) -> Parser:
    parser = Parser(name, _SUMMARY[name])
    if name in _PLUGGED:
        _declare_plugin(parser)
    return parser


def _run(rest: list[str]) -> int:
    from harness.cli.run_flags import configuration, without_dry_run
    from harness.distributed import join

    words, planned = without_dry_run(rest)

    def read() -> RunConfig:
        return configuration(_parser("run"), words)

    ranks = join(lambda: read().tensor_parallel)
    config = ranks.together(read)
    if planned:
        return _plan(config, ranks.world)
    with stage("Starting ...", config.progress and ranks.first), uncollected():
        from harness.evaluation.run import owned, run

    with owned():
        run(config, ["run", *rest], ranks)
    return 0


def _plan(config: RunConfig, processes: int) -> int:
    if processes > 1:
        raise UserError(f"--dry_run plans a run of one process, but there are {processes}; start it alone.")
    with uncollected():
        from harness.evaluation.plan import plan, render
        from harness.evaluation.run import owned

    with owned():
        print(render(plan(config)))
    return 0


def _resume(rest: list[str]) -> int:
    parser = _parser("resume")
    parser.add_argument("run", type=Path, help="folder of the run, or of a training")
    path = parser.parse_args(rest).run
    if (path / RECIPE_FILE).is_file():
        return _train(["--resume", "--output_path", str(path)])
    from harness.config import build
    from harness.distributed import join
    from harness.records.journal import read_record

    with uncollected():
        from harness.evaluation.plugin_code import refuse_lacking
        from harness.evaluation.run import owned, run

    def read() -> RunConfig:
        record = read_record(path)
        refuse_lacking(record)
        return build({**record.config, "output_path": str(path), "resume": True}, str(path))

    ranks = join(lambda: read().tensor_parallel)
    config = ranks.together(read)
    with owned():
        run(config, ["resume", *rest], ranks)
    return 0


def _report(rest: list[str]) -> int:
    from harness.paths import LEADERBOARDS

    parser = _parser("report")
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs; several are compared with the first")
    parser.add_argument("--all", action="store_true", help="print every row, difference and verdict of the runs")
    parser.add_argument("--compare", metavar="A,B", help="print arm A minus arm B, such as c2c,ensemble")
    parser.add_argument("--question", metavar="ID", help="print one question: prompts, message, every arm's answer")
    parser.add_argument("--html", type=Path, help="write one self-contained page about the runs")
    parser.add_argument("--plots", type=Path, help="write plots of the runs as PNG and SVG into this folder")
    parser.add_argument("--margin", type=float, help="points within which accuracies are the same; default: the run's")
    parser.add_argument("--add", action="store_true", help="add the runs to the leaderboards")
    parser.add_argument("--check", action="store_true", help="exit 1 when pages differ from their records")
    parser.add_argument("--leaderboards_dir", type=Path, default=LEADERBOARDS)
    options = parser.parse_args(rest)
    _refuse_without_effect(options)
    from harness.cli.report import report

    return report(options)


_PRINTED = ("all", "compare", "question")


def _refuse_without_effect(options: argparse.Namespace) -> None:
    """Refuses flags of `report` that would change nothing."""
    of_runs = {f"--{name}" for name in (*_PRINTED, "html", "plots", "add") if getattr(options, name)}
    if of_runs and not options.runs:
        raise UserError(f"report {', '.join(sorted(of_runs))}: give the folder of at least one run.")
    printed = of_runs & {f"--{name}" for name in _PRINTED}
    if len(printed) > 1 or (printed and (of_runs - printed or options.check)):
        raise UserError(
            "report prints --all, --compare or --question, one at a time; give the other flags to a second call."
        )
    beside = len(options.runs) > 1 and not (printed or options.html)
    if options.margin is not None and (not options.runs or options.add or options.plots or options.question or beside):
        raise UserError(
            "report --margin changes what is printed of one run or written with --html; boards keep each run's."
        )
    if options.margin is not None and not 0 < options.margin < 100:
        raise UserError(f"--margin {options.margin:g}: give points of accuracy, more than 0 and less than 100.")
    if options.check and (of_runs or options.runs):
        raise UserError("report --check takes neither runs nor other flags: it compares the pages with their records.")


def _check(rest: list[str]) -> int:
    parser = _parser("check")
    parser.add_argument("baseline", type=Path, help="run folder, folder of repetitions, or a leaderboard's record")
    parser.add_argument("run", type=Path, help="the same")
    parser.add_argument("--margin", type=float, default=1.0, help="points of accuracy within which runs are the same")
    parser.add_argument(
        "--fail_on",
        choices=["regression", "not-shown"],
        help="what fails; default: not-shown, or regression alone where only rounding can differ",
    )
    parser.add_argument("--latency_ratio", type=float, default=1.05, help="slowdown that may pass")
    parser.add_argument("--no-latency", action="store_true", help="leave latency out")
    parser.add_argument("--no-exact", action="store_true", help="test answers statistically even for one identity")
    parser.add_argument("--junit", type=Path, help="write JUnit XML")
    parser.add_argument("--markdown", type=Path, help="write a summary")
    options = parser.parse_args(rest)
    from harness.regression import Options, main

    wanted = Options(
        margin_points=options.margin,
        latency_ratio=options.latency_ratio,
        latency=not options.no_latency,
        exact=not options.no_exact,
        fail_on=options.fail_on,
    )
    return main(options.baseline, options.run, options=wanted, junit_path=options.junit, markdown_path=options.markdown)


def _import(rest: list[str]) -> int:
    from harness.imported.main import add_arguments, main

    parser = _parser("import")
    add_arguments(parser)
    return main(parser.parse_args(rest))


def _train(rest: list[str]) -> int:
    from harness.training.main import main
    from harness.training.recipe import add_arguments

    parser = _parser("train")
    add_arguments(parser)
    return main(parser.parse_args(rest))


def _train_demo(rest: list[str]) -> int:
    parser = _parser("train-demo")
    parser.add_argument("--world", choices=("relay", "factworld"), default="relay", help="what the pair is taught")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="new folder for receiver, sharer and fuser")
    parser.add_argument(
        "--answering-sharer",
        action="store_true",
        help="relay: teach the sharer to answer the fuser's lesson itself, see docs/training.md",
    )
    options = parser.parse_args(rest)
    if options.output.exists():
        raise UserError(f"{options.output} exists already; name a new folder.")
    if options.world == "factworld":
        if options.answering_sharer:
            raise UserError("--answering-sharer changes the relay world's sharer; leave it out or use --world relay.")
        from harness.factworld_build.build import main

        return main(options.seed, options.output)
    from harness.relay_build.build import main as build_relay

    return build_relay(options.seed, options.output, options.answering_sharer)


def _bench(rest: list[str]) -> int:
    from harness.bench.main import add_arguments, main

    parser = _parser("bench")
    add_arguments(parser)
    return main(parser.parse_args(rest))


def _convert(rest: list[str]) -> int:
    parser = _parser("convert")
    parser.add_argument("source", help="fuser folder, in either format")
    parser.add_argument("target", type=Path, help="new folder")
    parser.add_argument("--official", action="store_true", help="write the original's format instead of ours")
    options = parser.parse_args(rest)
    if options.target.exists():
        raise UserError(f"{options.target} exists already; name a new folder.")
    from harness.fusers.checkpoint import load, save, save_official

    fuser = load(options.source)
    (save_official if options.official else save)(fuser, options.target)
    print(f"Wrote {options.target}")
    return 0


def _ls(rest: list[str]) -> int:
    from harness.cli.listing import LISTS
    from harness.cli.runs import FOLDER, runs

    parser = _parser("ls")
    lists = [*LISTS, "runs"]
    parser.add_argument("what", nargs="?", default="tasks", metavar="LIST", help=f"{', '.join(lists)} (default: tasks)")
    parser.add_argument("folder", nargs="?", type=Path, help=f"ls runs: where they are (default: {FOLDER})")
    options = parser.parse_args(rest)
    if options.what not in lists:
        raise unknown("list", options.what, lists)
    if options.folder is not None and options.what != "runs":
        raise UserError(f"ls {options.what} takes no folder; ls runs DIR lists runs.")
    print("\n".join(runs(options.folder or FOLDER) if options.what == "runs" else LISTS[options.what]()))
    return 0
