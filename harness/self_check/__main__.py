"""``python -m harness.self_check [model type ...]``: the table of architectures; ends with 1 where one is wrong."""

from __future__ import annotations

import argparse
import sys

from transformers.utils import logging

from harness.self_check.sweep import HEAD, count_verdicts, markdown_row, sweep_architectures


def main() -> int:
    """Prints the table of all architectures, or of those named."""
    parser = argparse.ArgumentParser(prog="python -m harness.self_check", description=__doc__)
    parser.add_argument("model_types", nargs="*", help="transformers' names; none for all")
    parser.add_argument("--attention", help="sdpa, eager or grouped; none for sdpa, and eager where that is refused")
    asked = parser.parse_args()
    logging.set_verbosity_error()
    print(HEAD, flush=True)
    rows = []
    for row in sweep_architectures(asked.model_types, asked.attention):
        rows.append(row)
        print(markdown_row(row), flush=True)
    print(f"\n{count_verdicts(rows)}")
    return 0 if all(row.right for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
