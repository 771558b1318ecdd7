"""`python -m harness.lm_eval run --model c2c ...`: lm-eval's own command line with our models and tasks.

For lm-eval releases without plugins; later ones find the models through this distribution's entry points.
"""

from __future__ import annotations

import sys

from harness.errors import ended
from harness.paths import TASKS


def main() -> int:
    """Registers the models and hands over to lm-eval."""
    from lm_eval.__main__ import cli_evaluate

    import harness.adapter  # noqa: F401 - registers

    named = any(argument.partition("=")[0] == "--include_path" for argument in sys.argv)
    if not named and "run" in sys.argv[1:2]:
        sys.argv += ["--include_path", str(TASKS)]
    cli_evaluate()
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
