"""Entry point: `run_eval.py run | resume | report | check | train | train-demo | bench | convert | ls`."""

import sys

from harness.cli import main

if __name__ == "__main__":
    sys.exit(main())
