"""A task whose sharer reads a fact that the receiver never sees: one YAML file and one of JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FACTS = ("zinc", "iron", "lead", "gold", "tin", "opal")
YAML = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: {kind}
doc_to_text: "{text}"
doc_to_choice: labels
doc_to_target: key
{more}
metadata:
  version: 1
  {views}
"""
TEXT = "What is in box {{number}} ? {% for c in choices %}{{labels[loop.index0]}}. {{c}} {% endfor %}"
CONTEXT = 'sharer_context: "Box {{number}} holds {{fact}} ."'


def rows(facts: tuple[str, ...] = FACTS) -> list[dict[str, Any]]:
    """Questions whose answer is known by the fact alone; the fact is written unlike its option."""
    choices = ["a metal", "a stone"]
    return [
        {
            "id": f"q{number}",
            "number": f"{number}",
            "question": f"What is in box {number} ?",
            "fact": fact,
            "choices": choices,
            "labels": ["A", "B"],
            "key": "B" if fact == "opal" else "A",
        }
        for number, fact in enumerate(facts)
    ]


def write_task(folder: Path, name: str = "boxes", facts: tuple[str, ...] = FACTS, **changes: str) -> Path:
    """Writes the task and returns its YAML file."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(facts)), encoding="utf-8")
    fields = {"kind": "multiple_choice", "text": TEXT, "more": "", "views": CONTEXT, **changes}
    path = folder / f"{name}.yaml"
    path.write_text(YAML.format(name=name, data=data, cache=folder / "cache", **fields), encoding="utf-8")
    return path
