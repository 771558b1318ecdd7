"""Rows of a data set as a conversation and the response to it.

Guarantees that a row is read in one of three written forms and that anything else is refused by its number.
Rows are converted when they are needed, so that half a million of them cost nothing before training starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.prompts import Conversation, Turn
from harness.records.files import sha256_file
from harness.training.recipe import Recipe

_ROLES = {"human": "user", "gpt": "assistant"}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """What the receiver is asked and what it should have answered; an empty response teaches nothing."""

    conversation: Conversation
    response: str

    @property
    def characters(self) -> int:
        """Length of everything, to batch like with like."""
        return len(self.response) + sum(len(turn.content) for turn in self.conversation.turns)


@dataclass(frozen=True)
class Corpus:
    """The rows of a training run.

    Attributes:
        rows: as they were read.
        fingerprint: says whether two runs read the same.
        wording: turns a question document into a prompt, where rows are such documents.
    """

    rows: Sequence[Row]
    fingerprint: str
    wording: Callable[[Row], str] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        """Reads one row.

        Raises:
            UserError: if it is in no known form, or holds what is no text.
        """
        found = self._example(index)
        try:
            "".join((found.response, *(turn.content for turn in found.conversation.turns))).encode()
        except UnicodeEncodeError as error:
            seen = f"{error.object[error.start]!a}"
            raise UserError(
                f"Row {index} of the training data holds {seen}, which is half a character; take it out."
            ) from error
        return found

    def _example(self, index: int) -> Example:
        row = self.rows[index]
        if self.wording is not None and {"question", "key"} <= row.keys():
            return _question(row, self.wording, index)
        for field, role, content in (("messages", "role", "content"), ("conversations", "from", "value")):
            if field in row:
                return _chat(_turns(row[field], role, content, index))
        raise UserError(
            f"Row {index} of the training data has the fields {', '.join(sorted(row))[:100]}; it needs `messages` or "
            "`conversations`, or `question` and `key` together with --prompt-of TASK."
        )


def read_corpus(recipe: Recipe) -> Corpus:
    """Reads the recipe's data.

    Raises:
        UserError: if it cannot be read, or has no row to train on.
    """
    rows, fingerprint = _read(recipe)
    if len(rows) <= recipe.held_out_rows:
        raise UserError(f"{recipe.data} has {len(rows)} rows and {recipe.held_out_rows} are held out: none is left.")
    return Corpus(rows, fingerprint, _wording(recipe.prompt_of))


def _read(recipe: Recipe) -> tuple[Sequence[Row], str]:
    path = Path(recipe.data).expanduser()
    if path.suffix in {".jsonl", ".json"} or path.exists():
        from tasks.local_copies import read_jsonl

        return read_jsonl(path)[: recipe.max_rows], sha256_file(path)
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        found = load_dataset(recipe.data, recipe.data_config, split=recipe.data_split, revision=recipe.data_revision)
    except (OSError, ValueError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"Training data {recipe.data!r} is no file and not on the hub: {reason}") from error
    count = min(len(found), recipe.max_rows or len(found))
    return found.select(range(count)), f"{recipe.data}@{recipe.data_revision}/{recipe.data_split}:{count}"


def _wording(task: str | None) -> Callable[[Row], str] | None:
    if task is None:
        return None
    from tasks import index

    loaded = index.load([task])[0]
    return lambda row: str(loaded.doc_to_text(dict(row)))


def _question(row: Row, wording: Callable[[Row], str], index: int) -> Example:
    """Its key is learned; a row whose key is kept secret teaches nothing."""
    key, labels = row["key"], row.get("labels")
    if key is not None and (not isinstance(key, str) or (labels is not None and key not in labels)):
        raise UserError(f"Row {index} of the training data has the key {key!r:.40}; give one of its labels, or null.")
    try:
        text = wording(row)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"Row {index} of the training data cannot be asked as --prompt-of says ({error!r:.100}); "
            "give it the fields of that task's documents."
        ) from error
    return Example(Conversation((Turn("user", text),)), key or "")


def _turns(found: Any, role: str, content: str, index: int) -> list[Turn]:
    try:
        return [Turn(_ROLES.get(turn[role], turn[role]), _text(turn[content])) for turn in found]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"Row {index} of the training data is no chat: each turn needs {role} and {content}."
        ) from error


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise TypeError(type(content).__name__)
    return content


def _chat(turns: list[Turn]) -> Example:
    """The last answer is what is learned; whatever follows it is dropped."""
    while turns and turns[-1].role != "assistant":
        turns = turns[:-1]
    if len(turns) < 2:
        return Example(Conversation(tuple(turns)), "")
    return Example(Conversation(tuple(turns[:-1])), turns[-1].content)
