"""The carried pair and questions to it, in both forms of scoring."""

from __future__ import annotations

from pathlib import Path

from harness.paths import PAIR

WORDS, LETTERS = "relay_one", "relay_letters"
"""Tasks whose answers are written and whose letters are compared, 432 questions each."""
LETTERS_FILE = str(Path(__file__).with_name("relay_letters.yaml"))
"""What `--tasks` is given for `LETTERS`, which is none of the harness's own."""
PATHS = {name: str(PAIR / name) for name in ("receiver", "sharer", "fuser")}
