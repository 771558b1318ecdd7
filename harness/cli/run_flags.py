"""The flags of `run`: one for every field of the configuration, under lm-eval's names where it has one.

Guarantees that a YAML file means the same as flags, that flags win over it, and that what is not given is taken from
the embedded pair on its own task.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.config import RunConfig, build, read_yaml
from harness.config.embedded import with_embedded
from harness.config.flags import add_flags, given_values
from harness.config.validation import refuse_retired


def configuration(parser: argparse.ArgumentParser, given: Sequence[str]) -> RunConfig:
    """Reads flags and an optional YAML file.

    Raises:
        UserError: something is not allowed.
    """
    parser.add_argument("suite", nargs="?", type=Path, help="YAML file with the names of these flags; flags win")
    _declare_dry_run(parser)
    add_flags(parser, RunConfig)
    refuse_retired(word.partition("=")[0].lstrip("-").replace("-", "_") for word in given if word.startswith("--"))
    parsed = vars(parser.parse_args(given))
    suite = parsed["suite"]
    values = {**(read_yaml(suite) if suite else {}), **given_values(RunConfig, parsed)}
    return build(with_embedded(values), str(suite) if suite else "command line")


def without_dry_run(given: Sequence[str]) -> tuple[list[str], bool]:
    """Returns the words of a run without ``--dry_run``, and whether that was among them: it is no setting of a run."""
    kept = [word for word in given if word.replace("-", "_") != "__dry_run"]
    return kept, len(kept) < len(given)


def _declare_dry_run(parser: argparse.ArgumentParser) -> None:
    about = "Print what would be done, how long it takes and what it can show"
    parser.add_argument("--dry_run", action="store_true", help=about)
