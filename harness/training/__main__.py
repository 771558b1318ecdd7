"""``python -m harness.training``: for ``torchrun`` and ``accelerate launch``, which start a module or a script."""

from __future__ import annotations

import sys

from harness.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
