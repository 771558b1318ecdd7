"""Small invented data sets and result files of every format."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.benchmarks.definitions import MMLU_SUBJECTS

KEYS = "ABCDABCD"
WORDS = ("stone", "river", "cloud", "forest", "copper", "winter", "engine", "garden")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = {
    "repository": "someone/results",
    "commit": COMMIT,
    "licence": "MIT",
    "evaluator": "their script",
    "receiver": "org/receiver",
}
LETTERS = "ABCD"


def question(number: int) -> str:
    """The text of an invented question."""
    return f"Which of these is a {WORDS[number]}?"


def choices(number: int) -> list[str]:
    """Its options."""
    return [f"{WORDS[number]} {letter.lower()}" for letter in LETTERS]


def write_datasets(folder: Path) -> Path:
    """Writes OpenBookQA, ARC and MMLU-Redux in small.

    Question 2 of ARC has digits for labels and is left out, question 3 has five options.
    """
    _lines(folder / "allenai/openbookqa/main/test.jsonl", [_listed(n, "question_stem") for n in range(len(KEYS))])
    arc = [_listed(n, "question") for n in range(len(KEYS))]
    arc[2] |= {"choices": {"text": choices(2), "label": ["1", "2", "3", "4"]}, "answerKey": "3"}
    arc[3]["choices"] = {"text": [*choices(3), "none"], "label": list("ABCDE")}
    _lines(folder / "allenai/ai2_arc/ARC-Challenge/test.jsonl", arc)
    for subject in (name for members in MMLU_SUBJECTS.values() for name in members):
        rows = [
            {"question": f"{subject}: {question(n)}", "choices": choices(n), "answer": n % 4, "error_type": kind}
            for n, kind in enumerate(("ok", "expert", "ok"))
        ]
        _lines(folder / "edinburgh-dawg/mmlu-redux-2.0" / subject / "test.jsonl", rows)
    return folder


def cot_row(number: int, letter: str, **changes: Any) -> dict[str, Any]:
    """A row of the released evaluator about a question of OpenBookQA."""
    key = KEYS[number]
    row = {
        "subject": "SPLIT_0_OF_1",
        "question_id": number,
        "question": question(number),
        **dict(zip("ABCDEFGHIJ", [*choices(number), *[""] * 6], strict=True)),
        "true_answer": key,
        "pred": letter,
        "is_correct": letter == key,
        "answer_method": "generate",
        "cot_gen_length": 7,
        "cot_output": f"The correct answer is {letter}." if letter else "I do not know.",
        "answer_latency_ms": 100.0 + number,
    }
    return row | changes


def cot_rows(letters: str) -> list[dict[str, Any]]:
    """Rows about the first questions; a blank stands for an answer without a letter."""
    return [cot_row(number, letter.strip()) for number, letter in enumerate(letters)]


def lm_eval_line(number: int, letter: str, **changes: Any) -> dict[str, Any]:
    """A generated answer as lm-eval logs it, about a row of OpenBookQA."""
    text = f"The correct answer is {letter}."
    line = {
        "doc_id": number,
        "doc": _listed(number, "question_stem"),
        "target": KEYS[number],
        "resps": [[text]],
        "filtered_resps": [text],
        "filter": "none",
        "acc": float(letter == KEYS[number]),
    }
    return line | changes


def compared_line(number: int, letter: str, **changes: Any) -> dict[str, Any]:
    """Loglikelihoods of the options as lm-eval logs them."""
    answers = [[str(-1.0 if one == letter else -2.0), "False"] for one in LETTERS]
    line = lm_eval_line(number, letter, resps=[[one] for one in answers], filtered_resps=answers)
    return {**line, "target": str(LETTERS.index(KEYS[number])), **changes}


def letters_line(number: int, said: Mapping[str, str], **changes: Any) -> dict[str, Any]:
    """Letters of several arms, without anything that says which question it is."""
    logits = {arm: [2.0 if one == letter else 1.0 for one in LETTERS] for arm, letter in said.items()}
    line = {
        "index": number,
        "subject": "physics" if number % 2 else "law",
        "truth": KEYS[number],
        "predicted": dict(said),
        "correct": {arm: letter == KEYS[number] for arm, letter in said.items()},
        "logits_ABCD": logits,
    }
    return line | changes


def summary_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the released evaluator writes beside its rows."""
    share = sum(row["is_correct"] for row in rows) / len(rows)
    part = {"accuracy": share, "total_samples": len(rows)}
    return {
        "overall_accuracy": share,
        "subjects": {"SPLIT_0_OF_1": share},
        "length_statistics": {"subjects": {"SPLIT_0_OF_1": part}},
    }


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Writes rows as JSON lines."""
    _lines(path, rows)
    return path


def flags(path: Path, home: Path, channel: str = "c2c", task: str = "openbookqa", **more: str) -> list[str]:
    """The command that imports a file; a flag is left out where it is given as an empty text."""
    named = {
        **SOURCE, "sharer": "org/sharer", "task": task, "channel": channel,
        "datasets_dir": str(home / "data"), "leaderboards_dir": str(home / "boards"), **more,
    }  # fmt: skip
    pairs = ((f"--{name.replace('_', '-')}", value) for name, value in named.items() if value)
    return ["import", str(path), *(word for pair in pairs for word in pair)]


def _listed(number: int, stem: str) -> dict[str, Any]:
    return {
        "id": f"q-{number}",
        stem: question(number),
        "choices": {"text": choices(number), "label": list(LETTERS)},
        "answerKey": KEYS[number],
    }


def _lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
