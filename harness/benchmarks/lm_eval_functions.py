"""The functions and filters that the task files name.

They load documents, write prompts and score answers, the same for every task, and register the readers of answer
letters as the lm-eval filter `answer_letter`. Guarantees that documents are canonical before lm-eval sees them. They
are made while loading and not in `process_docs`, because only there the configuration that names them is known.

The paper's prompt is built as its released evaluator builds it, byte for byte where a question has four options. That
evaluator asks for "A/B/C/D" however many options there are, and so do benchmarks that keep its sentence (ARC-Challenge,
where six rows have three or five options); elsewhere the sentence names the labels of the row.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.filter import Filter
from lm_eval.api.registry import register_filter

from harness.benchmarks.answer_parsing import PARSERS, most_likely, read_letter
from harness.benchmarks.definitions import BENCHMARKS
from harness.benchmarks.documents import (
    Candidate,
    Document,
    benchmark_documents,
    checked_document,
    refuse_duplicates,
    with_source_labels,
)
from harness.benchmarks.sources import Row, read_jsonl
from harness.errors import UserError, suggest
from harness.paths import TASKS

if TYPE_CHECKING:
    from datasets import Dataset

_CHOICES = (*PARSERS, "both")


@register_filter("answer_letter")
class AnswerLetter(Filter):
    """Reads the letter of an option from every text; None where there is none.

    In a task file: ``filter: [{function: answer_letter, parser: strict}, {function: take_first}]``.

    Args:
        parser: `paper` reads as the evaluator of Cache-to-Cache (v2), `strict` reads plain answers only, `both` returns
            the pair (paper, strict).
    """

    def __init__(self, parser: str = "paper", **_: Any) -> None:
        if parser not in _CHOICES:
            near = suggest(parser, _CHOICES)
            raise UserError(f"Unknown parser {parser!r} of filter answer_letter; allowed: {', '.join(_CHOICES)}.{near}")
        self.parser = parser

    def apply(self, resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """Returns one reading a text; `docs` have `labels` and `key`."""
        return [[self._read(text, doc) for text in texts] for texts, doc in zip(resps, docs, strict=True)]

    def _read(self, text: str, doc: Mapping[str, Any]) -> Any:
        read = {name: read_letter(text, name, doc["key"], doc["labels"]) for name in PARSERS}
        return (read["paper"], read["strict"]) if self.parser == "both" else read[self.parser]


_PROMPT = """Accurately answer the following question:

{question}

Choices:
{options}

Instructions:
- Carefully read the question and all options.
- Select the single most correct answer.
- Respond ONLY in the following format: "The correct answer is {labels}".
- Do not include any explanations, additional text, or punctuation besides the answer.

The correct answer is"""


def paper_prompt(document: Mapping[str, Any], released_sentence: bool = False) -> str:
    """Renders the user turn of a canonical document.

    Each option ends in a newline, so two empty lines follow the last; there is none after the prompt.

    Args:
        document: the question.
        released_sentence: ask for "A/B/C/D" whatever the labels are.
    """
    labels = "/".join("ABCD" if released_sentence else document["labels"])
    return _PROMPT.format(question=document["question"], options=options(document), labels=labels)


def options(document: Mapping[str, Any]) -> str:
    """Renders the options, one a line, as `A. text` with a newline after each."""
    pairs = zip(document["labels"], document["choices"], strict=True)
    return "".join(f"{label}. {choice}\n" for label, choice in pairs)


logger = logging.getLogger(__name__)


def load_benchmark(
    *, benchmark: str, dataset_config: str, datasets_dir: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """Loads the split of a benchmark (`custom_dataset` of its tasks).

    Args:
        benchmark: name in `harness.benchmarks.definitions.BENCHMARKS`.
        dataset_config: configuration of the dataset; the subject where there are subjects.
        datasets_dir: folder of local copies, which whoever loads the task adds to its metadata; see
            `harness.benchmarks.sources.read_rows`.
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
    return checked_document(candidate, place, where, str(row.get("subject", "")), str(row.get("category", "")))


def _dataset(documents: Sequence[Mapping[str, Any]]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_list(list(documents))
