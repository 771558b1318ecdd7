"""Rows as each dataset writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Write = Callable[[str, Sequence[Any]], Path]  # (<hub id>/<config>/<split>, rows or raw lines) -> file


def listed(key: str = "B", number: int = 0, **changes: Any) -> dict[str, Any]:
    """A row as OpenBookQA and ARC write it."""
    row: dict[str, Any] = {
        "id": f"row-{number}",
        "question_stem": "Which one freezes first?",
        "question": "Which one freezes first?",
        "choices": {"text": ["tea", "rain", "oil", "sand"], "label": ["A", "B", "C", "D"]},
        "answerKey": key,
    }
    return {**row, **changes}


def redux(error_type: str = "ok", answer: Any = 1, correct: Any = None, **changes: Any) -> dict[str, Any]:
    """A row as MMLU-Redux writes it."""
    row: dict[str, Any] = {
        "question": "Which bone is longest?",
        "choices": ["rib", "femur", "skull", "ulna"],
        "answer": answer,
        "error_type": error_type,
        "correct_answer": correct,
    }
    return {**row, **changes}


def ceval(answer: str = "D", **changes: Any) -> dict[str, Any]:
    """A row as C-Eval writes it."""
    return {"id": 0, "question": "哪个最大？", "A": "一", "B": "二", "C": "三", "D": "四", "answer": answer, **changes}
