"""Where a prompt ends and what follows it begins, in tokens.

A tokenizer may merge across the seam: behind ``Answer: `` the word ``blue`` is the one token `` blue``. Therefore the
whole text is tokenised, never its parts, and the seam is found among its tokens by one of two rules. Both give one
prompt for all continuations, so that one prefill serves them.

* `split_keeping`: the prompt keeps every token that it has in common with all the whole texts. What a tokenizer merges
  across the seam belongs to what follows.
* `as_lm_eval`: lm-eval's `TemplateLM._encode_pair`. White space that ends the prompt moves to the continuation, and
  the continuation begins behind as many tokens as the stripped prompt has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

Ids = tuple[int, ...]

Tokenize = Callable[[str], Ids]

Pairs = tuple[Ids, tuple[Ids, ...]]


def split_keeping(tokenize: Tokenize, prompt: str, continuations: Sequence[str]) -> Pairs:
    """Returns the prompt's ids and those of each continuation, seam by the rule `split_keeping`.

    Args:
        tokenize: text -> token ids.
        prompt: what stands before the seam.
        continuations: texts that follow it, each on its own.

    Raises:
        ValueError: a continuation adds no token.
    """
    before, wholes = tokenize(prompt), [tokenize(prompt + text) for text in continuations]
    shared = min((common_prefix(before, whole) for whole in wholes), default=len(before))
    found = tuple(whole[shared:] if whole != before else () for whole in wholes)
    return before[:shared], _each_adds_something(found, continuations)


def as_lm_eval(tokenize: Tokenize, prompt: str, continuations: Sequence[str]) -> Pairs:
    """Returns the prompt's ids and those of each continuation, seam by the rule `as_lm_eval`; see `split_keeping`."""
    before = tokenize(prompt.rstrip())
    found = tuple(tokenize(prompt + text)[len(before) :] for text in continuations)
    return before, _each_adds_something(found, continuations)


def behind_nothing(tokenizer: Any, continuations: Sequence[str], start: int | None = None) -> Pairs:
    """Continuations of an empty prompt: the prompt becomes the token that opens a text, which is never doubled.

    Args:
        tokenizer: of the model.
        continuations: whole texts.
        start: the opening token; None for `start_token`.

    Raises:
        ValueError: a continuation has no token, or the tokenizer has no token to open a text with.
    """
    pairs = [open_text(tokenizer, text, start) for text in continuations]
    return (pairs[0][0],), _each_adds_something(tuple(ids for _, ids in pairs), continuations)


def open_text(tokenizer: Any, text: str, start: int | None = None) -> tuple[int, Ids]:
    """The token that opens a text and the ids of the text behind it; see `behind_nothing`."""
    first = start_token(tokenizer) if start is None else start
    if first is None:
        raise ValueError("The prompt is empty, and the tokenizer has neither a BOS nor an EOS token to begin with.")
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    return first, ids[1:] if ids[:1] == (first,) else ids


def start_token(tokenizer: Any) -> int | None:
    """The token that stands before a text whose first token is to be scored: BOS, else EOS."""
    token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return None if token is None else int(token)


def plain_ids(tokenizer: Any, text: str) -> Ids:
    """Ids of plain text as a prompt: opened as the tokenizer opens texts but never twice, and never closed.

    Some tokenizers end every text with EOS; what a model writes behind that is no answer to the prompt.
    """
    written = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    if tokenizer.bos_token and text.startswith(tokenizer.bos_token):
        return written
    whole = tuple(tokenizer(text)["input_ids"])
    if not written:
        return whole[:1] if whole[:1] == (tokenizer.bos_token_id,) else ()
    opened = (n for n in range(len(whole)) if whole[n : n + len(written)] == written)
    return next((whole[: n + len(written)] for n in opened), whole)


def lm_eval_ids(tokenizer: Any, text: str, opening: str | None, add_bos: bool | None = None) -> Ids:
    """Ids of a text as lm-eval's `HFLM.tok_encode` has them, chats included.

    Args:
        tokenizer: of the model.
        text: plain text or a rendered chat.
        opening: a text that begins with this gets no special tokens; None where no text does.
        add_bos: lm-eval's ``add_bos_token``; None leaves it to the tokenizer.
    """
    begun = opening is not None and text.startswith(opening)
    special = {"add_special_tokens": False} if begun else {} if add_bos is None else {"add_special_tokens": add_bos}
    return tuple(tokenizer(text, **special)["input_ids"])


def opening_text(tokenizer: Any, start: int | None = None) -> str | None:
    """The text of `start_token`, by which lm-eval sees that a scored text is open already."""
    first = start_token(tokenizer) if start is None else start
    return None if first is None else str(tokenizer.decode(first))


def common_prefix(one: Sequence[object], other: Sequence[object]) -> int:
    """How many tokens two texts have in common from their start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _each_adds_something(found: tuple[Ids, ...], texts: Sequence[str]) -> tuple[Ids, ...]:
    for ids, text in zip(found, texts, strict=True):
        if not ids:
            raise ValueError(f"The option {text!r} adds no token to the prompt.")
    return found
