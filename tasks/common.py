"""What the task files call: loading, prompting and scoring, the same for every task.

Guarantees that documents are canonical before lm-eval sees them. Documents are made while loading and not in
`process_docs`, because only there the configuration that names them is known.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness.answer_filters  # noqa: F401 - registers the filter that the task files name
from harness.errors import UserError
from harness.paths import TASKS
from harness.scoring import most_likely
from tasks.benchmarks import BENCHMARKS
from tasks.documents import Document, benchmark_documents, checked, refuse_duplicates, with_source_labels
from tasks.local_copies import Row, read_jsonl
from tasks.prompts import paper_prompt
from tasks.rows import Candidate

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def load_benchmark(
    *, benchmark: str, dataset_config: str, datasets_dir: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """Loads the split of a benchmark (`custom_dataset` of its tasks).

    Args:
        benchmark: name in `tasks.benchmarks.BENCHMARKS`.
        dataset_config: configuration of the dataset; the subject where there are subjects.
        datasets_dir: folder of local copies, which whoever loads the task adds to its metadata; see
            `tasks.sources.read_rows`.
        _: the task's metadata, which lm-eval passes along.

    Returns:
        The split's name -> canonical documents.
    """
    chosen = BENCHMARKS[benchmark]
    documents = benchmark_documents(chosen, dataset_config, datasets_dir)
    if not chosen.subjects and len(documents) != chosen.rows:
        logger.warning("%s declares %d questions, but its data has %d.", benchmark, chosen.rows, len(documents))
    return {chosen.split: _dataset(documents)}


def load_canonical(
    *, canonical_file: str, canonical_split: str = "test", where: Mapping[str, Any] | None = None, **_: Any
) -> dict[str, Dataset]:
    """Loads canonical rows from a JSONL file that comes with the tasks.

    Args:
        canonical_file: path below the tasks folder.
        canonical_split: the split's name for lm-eval.
        where: field -> value that a row must have to be kept.
        _: the task's metadata, which lm-eval passes along.

    Returns:
        The split's name -> documents, with any further fields of the rows kept.

    Raises:
        UserError: if the file is malformed or no row is kept.
    """
    wanted = (where or {}).items()
    rows = canonical_rows(TASKS / canonical_file)
    kept = [row for row in rows if all(row.get(name) == value for name, value in wanted)]
    if not kept:
        raise UserError(f"No row of {canonical_file} has {dict(wanted)}.")
    return {canonical_split: _dataset(kept)}


def canonical_rows(path: Path) -> list[dict[str, Any]]:
    """Reads and checks a file of canonical documents.

    Raises:
        UserError: if a line is broken or a document malformed.
    """
    rows = read_jsonl(path)
    candidates = [_candidate(row) for row in rows]
    checked_rows = [
        (_canonical(row, candidate, f"{path.stem}-{index}", str(path)), candidate)
        for index, (row, candidate) in enumerate(zip(rows, candidates, strict=True))
    ]
    documents = with_source_labels(checked_rows, str(path))
    refuse_duplicates(documents, str(path))
    return [{**row, **document} for row, document in zip(rows, documents, strict=True)]


def doc_to_text(document: Mapping[str, Any]) -> str:
    """Returns the paper's prompt."""
    return paper_prompt(document)


def doc_to_released_text(document: Mapping[str, Any]) -> str:
    """Returns the paper's prompt with the released evaluator's sentence, whatever the labels are."""
    return paper_prompt(document, released_sentence=True)


def doc_to_choice(document: Mapping[str, Any]) -> list[str]:
    """Returns the labels, which are the continuations that the letters form compares."""
    return list(document["labels"])


def doc_to_target(document: Mapping[str, Any]) -> str:
    """Returns the right label."""
    return str(document["key"])


def process_text(document: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """Scores what the filter `answer_letter` read: a letter or None, or the pair of both parsers' readings."""
    read = results[0]
    if isinstance(read, tuple):
        return {"parsers_disagree": float(read[0] != read[1])}
    return {"acc": float(read == document["key"]), "invalid": float(read is None)}


def process_letters(document: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Scores one (loglikelihood, is greedy) pair a label."""
    label = most_likely([loglikelihood for loglikelihood, _ in results], document["labels"])
    return {"acc": float(label == document["key"])}


def _candidate(row: Row) -> Candidate:
    return Candidate(row.get("question"), row.get("choices"), row.get("labels"), row.get("key"), row.get("id"))


def _canonical(row: Row, candidate: Candidate, place: str, where: str) -> Document:
    return checked(candidate, place, where, str(row.get("subject", "")), str(row.get("category", "")))


def _dataset(documents: Sequence[Mapping[str, Any]]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_list(list(documents))
