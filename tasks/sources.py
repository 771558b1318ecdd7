"""Rows of a dataset split, from the hub or from local copies of it.

Guarantees that only the one split that is asked for is read, at its pinned revision, and that
whatever is missing or broken is named. Where a folder of local copies is given, or `HARNESS_DATASETS_DIR`
names one, rows come from there (see `tasks.local_copies`) and the network is not touched; the revision of such copies
is the caller's affair.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import UserError
from harness.hub_data import load_split
from tasks.benchmarks import Source
from tasks.local_copies import Row, read_split

DATASETS_DIR_VARIABLE = "HARNESS_DATASETS_DIR"


def folder_in_environment() -> str | None:
    """The folder of local copies that the environment names; None where it names none."""
    return os.environ.get(DATASETS_DIR_VARIABLE) or None


def read_rows(source: Source, config: str, split: str, datasets_dir: str | None = None) -> list[Row]:
    """Reads one split.

    Args:
        source: hub id and revision.
        config: configuration of the data set.
        split: name of the split.
        datasets_dir: folder of local copies; empty = the hub; None = what the environment says.

    Raises:
        UserError: if the dataset, the configuration or the split is not there, or a line is broken.
    """
    local = folder_in_environment() if datasets_dir is None else datasets_dir
    if local and not Path(local).is_dir():
        raise UserError(
            f"The data sets are to come from {local!r}, which is not a folder; give another with --datasets_dir or "
            f"{DATASETS_DIR_VARIABLE}."
        )
    rows = read_split(Path(local), source.hub_id, config, split) if local else _from_hub(source, config, split)
    if not rows:
        raise UserError(f"Split {split!r} of {source.hub_id} ({config}) has no rows.")
    return rows


def _from_hub(source: Source, config: str, split: str) -> list[Row]:
    hint = f"Or set {DATASETS_DIR_VARIABLE} to a folder of local copies."
    try:
        rows, _ = load_split(source.hub_id, source.revision, config, split)
    except UserError as error:
        raise UserError(f"{error} {hint}") from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"Split {split!r} of {source.hub_id} ({config}) at revision {source.revision} could not be read: "
            f"{reason}. {hint}"
        ) from error
    return list(rows)
