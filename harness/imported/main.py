"""The command `import`: results of others, from a manifest or from files and flags, onto a board."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness import leaderboard
from harness.errors import UserError
from harness.imported.building import Importer
from harness.imported.formats import FORMATS
from harness.imported.manifest import ENDINGS, Wanted, build, read_manifest
from harness.leaderboard.reported import Figure, ReportedArm, ReportedRecord, add_reported
from harness.leaderboard.reported.format import NOT_ASKED
from harness.paths import LEADERBOARDS
from harness.results.formatting import arm_text, percent_text

_OF_SOURCE = ("repository", "commit", "licence", "evaluator", "receiver", "hardware", "note")
_OF_RESULTS = ("format", "task", "channel", "control", "variant", "filter")
_HELP = {
    "repository": "where the files were published, such as OWNER/NAME",
    "commit": "of that repository",
    "licence": "of the files, such as Apache-2.0",
    "evaluator": "what scored the answers, in words",
    "receiver": "model that answered",
    "hardware": "in words, where it is known",
    "note": "anything else that a reader has to know",
    "format": f"one of {', '.join(FORMATS)}; default: told by content",
    "task": "one of our whole tasks, or another name with --not-joined",
    "channel": "channel that the files hold: receiver, t2t, c2c, ...",
    "control": "control, if it is one",
    "variant": "what tells it from other arms of this channel, such as the name of a fuser",
    "filter": "filter of lm-eval samples with several",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("sources", nargs="+", type=Path, help="a manifest (YAML), or files that are one whole")
    for name in (*_OF_SOURCE, *_OF_RESULTS):
        parser.add_argument(f"--{name}", default="", help=_HELP[name])
    parser.add_argument(
        "--sharer", action="append", default=[], help="model that sends the message; repeat for several"
    )
    parser.add_argument(
        "--arm", action="append", default=[], metavar="NAME=CHANNEL[,VARIANT]", help="arm of a file that holds several"
    )
    parser.add_argument(
        "--path", action="append", default=[], help="path inside the repository; default: its name here"
    )
    parser.add_argument("--sha256", action="append", default=[], help="that a file has to have; repeat as the files")
    parser.add_argument(
        "--not-joined", "--not_joined", action="store_true", help="the task is none of ours: rows stand by themselves"
    )
    parser.add_argument(
        "--files_dir", "--files-dir", type=Path, help="folder that a manifest's paths are seen from; default: its own"
    )
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="read and check everything, write nothing")
    parser.add_argument("--datasets_dir", "--datasets-dir", help="folder of local copies of our data sets")
    parser.add_argument("--leaderboards_dir", "--leaderboards-dir", type=Path, default=LEADERBOARDS)


def main(options: argparse.Namespace) -> int:
    """Imports results and writes the boards.

    Raises:
        UserError: if anything is missing, cannot be read or does not agree.
    """
    manifests = [path for path in options.sources if path.suffix in ENDINGS]
    records = [record for wanted in _wanted(options, manifests) for record in _records(wanted, options)]
    for record in records:
        print(_said(record))
    if options.dry_run:
        print("Nothing was written (--dry-run).")
        return 0
    changed = add_reported(options.leaderboards_dir, records)
    for path in [*changed, *leaderboard.write(options.leaderboards_dir)]:
        print(f"Wrote {path}")
    if not changed:
        print("Every record was there already.")
    return 0


def _records(wanted: Wanted, options: argparse.Namespace) -> list[ReportedRecord]:
    return Importer(wanted, options.datasets_dir).records()


def _wanted(options: argparse.Namespace, manifests: list[Path]) -> list[Wanted]:
    if not manifests:
        if options.files_dir:
            raise UserError("--files_dir says where a manifest's files lie; without a manifest name the files.")
        return [Wanted(build(_content(options), "import"), Path())]
    flags = [name for name in (*_OF_SOURCE, *_OF_RESULTS, "sharer", "arm", "path", "sha256") if getattr(options, name)]
    flags += ["not-joined"] if options.not_joined else []
    if flags:
        raise UserError(f"A manifest says everything itself; leave out {', '.join(f'--{name}' for name in flags)}.")
    if len(manifests) < len(options.sources):
        raise UserError("Give manifests or files of results, not both in one call.")
    return [read_manifest(path, options.files_dir) for path in manifests]


def _content(options: argparse.Namespace) -> dict[str, Any]:
    """What flags say, as a manifest would."""
    paths, digests = options.path or [path.name for path in options.sources], options.sha256
    for name, given in (("path", paths), ("sha256", digests)):
        if given and len(given) != len(options.sources):
            raise UserError(
                f"--{name} is given {len(given)} times for {len(options.sources)} files; give it once a file."
            )
    files = [
        {"path": path, "at": str(here), "sha256": digest}
        for path, here, digest in zip(paths, options.sources, digests or [""] * len(paths), strict=True)
    ]
    missing = [name for name in ("repository", "commit", "licence", "task") if not getattr(options, name)]
    if missing:
        raise UserError(f"import needs {', '.join(f'--{name}' for name in missing)}, or a manifest.")
    results = {name: value for name in _OF_RESULTS if (value := getattr(options, name))}
    results |= {"files": files, "joined": not options.not_joined, "arms": dict(map(_arm, options.arm))}
    return {**{name: getattr(options, name) for name in _OF_SOURCE}, "sharers": options.sharer, "results": [results]}


def _arm(text: str) -> tuple[str, dict[str, str]]:
    """Reads `NAME=CHANNEL[,VARIANT]`."""
    name, equals, ours = text.partition("=")
    channel, _, variant = ours.partition(",")
    if not (equals and name and channel):
        raise UserError(f"--arm takes NAME=CHANNEL or NAME=CHANNEL,VARIANT, as in fused=c2c,own fuser; got {text!r}.")
    channel, _, control = channel.partition("/")
    return name, {"channel": channel, "control": control, "variant": variant}


def _said(record: ReportedRecord) -> str:
    """One line about a record."""
    counts = [*(_n(arm.predicted) for arm in record.arms), *(figure.n for figure in record.figures)]
    arms: list[ReportedArm | Figure] = [*record.arms, *record.figures]
    listed = zip(arms, counts, strict=True)
    scores = ", ".join(
        f"{' '.join(filter(None, (arm_text(arm.channel, arm.control), arm.variant)))} {percent_text(arm.right / n)} "
        f"({arm.right} of {n})"
        for arm, n in listed
    )
    return f"{record.source}, {record.task}, {_joined(record)}: {scores}"


def _n(predicted: str) -> int:
    return len(predicted) - predicted.count(NOT_ASKED)


def _joined(record: ReportedRecord) -> str:
    if record.figures:
        return "figures alone"
    return f"joined by {', '.join(record.joined_by)}" if record.joined_by else "a set of its own"
