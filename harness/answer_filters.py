"""The readers of answer letters as filters of lm-eval, under the name `answer_letter`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.filter import Filter
from lm_eval.api.registry import register_filter

from harness.errors import UserError, suggest
from harness.scoring import PARSERS, read_letter

_CHOICES = (*PARSERS, "both")


@register_filter("answer_letter")
class AnswerLetter(Filter):  # type: ignore[misc]
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
