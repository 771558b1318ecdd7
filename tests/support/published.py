"""Published figures of one pair instead of some twenty, for boards that are written again and again."""

from __future__ import annotations

import json
from pathlib import Path

from harness.leaderboard.rows import PUBLISHED
from harness.paths import LEADERBOARDS

TASK, SHARER = "openbookqa", "Qwen/Qwen2.5-0.5B-Instruct"


def publish_few(board: Path) -> None:
    """Puts the published figures of one pair on one task into a board's folder."""
    whole = json.loads((LEADERBOARDS / PUBLISHED).read_text(encoding="utf-8"))
    kept = [row for row in whole["rows"] if (row["source"], row["task"], row["sharer"]) == ("paper", TASK, SHARER)]
    (board / PUBLISHED).parent.mkdir(parents=True)
    (board / PUBLISHED).write_text(json.dumps({**whole, "rows": kept}), encoding="utf-8")
