"""``python -m harness.training``: for ``torchrun`` and ``accelerate launch``, which start a module or a script."""

from __future__ import annotations

import argparse
import sys

from harness.errors import RunError, UserError
from harness.training.main import add_arguments, main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="train", description="Trains a fuser between frozen models.")
    add_arguments(parser)
    try:
        sys.exit(main(parser.parse_args()))
    except (UserError, RunError) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
