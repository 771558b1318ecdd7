"""Where prompts end and options begin: white space that merges, BOS that opens a text once, EOS that closes none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.channels.prompt_layout import Planner
from harness.evaluation.prompt_record import prompt_settings
from harness.models import token_seam
from harness.models.chat import (
    Conversation,
    Reading,
    continuation_ids,
    encode,
    render,
    rendered,
    user_turn,
    with_continuations,
)
from tests.support.seams import CHATML, SPACED, speaking, words

QUESTION = user_turn("Which colour is the sky?")
OPTIONS = ("blue or green", "red", "A")


def written(lm: Any, conversation: Conversation, option: str) -> str:
    """What the prompt and one option say together."""
    encoded = encode(lm, with_continuations(conversation, *OPTIONS))
    return str(lm.tokenizer.decode((*encoded.ids, *encoded.options[OPTIONS.index(option)])))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("as_lm_eval", [False, True], ids=["kept", "lm-eval"])
@pytest.mark.parametrize(
    ("template", "prefix", "chat"),
    [(SPACED, "", True), (CHATML, "The answer is ", True), (CHATML, "", True), (None, "Answer: ", False)],
    ids=["template", "opened", "line-break", "plain"],
)
def test_no_token_is_lost_where_an_option_meets_white_space(
    template: str | None, prefix: str, chat: bool, as_lm_eval: bool, option: str
) -> None:
    lm = speaking(words(template))
    conversation = replace(QUESTION, prefix=prefix, chat=chat, reading=Reading(as_lm_eval))
    whole = rendered(lm, conversation)[1] + option
    encoded = encode(lm, with_continuations(conversation, *OPTIONS))
    ids = (*encoded.ids, *encoded.options[OPTIONS.index(option)])
    assert ids == tuple(lm.tokenizer(whole, add_special_tokens=False)["input_ids"])


def test_a_merged_token_belongs_to_the_option_and_a_line_break_to_the_prompt() -> None:
    lm = speaking(words(SPACED))
    (blue,) = encode(lm, with_continuations(QUESTION, "blue")).options
    assert lm.tokenizer.decode(blue) == " blue"
    assert continuation_ids(lm, QUESTION, "blue") == blue
    lm = speaking(words(CHATML))
    assert lm.tokenizer.decode(encode(lm, with_continuations(QUESTION, "blue")).options[0]) == "blue"
    scored = encode(lm, with_continuations(replace(QUESTION, reading=Reading(as_lm_eval=True)), "blue")).options[0]
    assert lm.tokenizer.decode(scored) == "\nblue"


def test_a_planner_cuts_the_prompt_at_the_same_seam() -> None:
    lm = speaking(words(SPACED))
    asked = with_continuations(QUESTION, "blue")
    for strategy in ("off", "first"):
        plan = Planner(lm, (lm,), strategy).plan(asked)
        assert (plan.ids[0], plan.options) == (encode(lm, asked).ids, encode(lm, asked).options)
        assert len({len(row) for row in plan.ids}) == 1
        assert 0 < plan.fused_end < len(plan.ids[0])


def test_plain_text_is_opened_once_and_never_closed() -> None:
    both = words(opens=True, closes=True)
    begin, end = both.bos_token_id, both.eos_token_id
    body = tuple(both("Which colour", add_special_tokens=False)["input_ids"])
    assert both("Which colour")["input_ids"] == [begin, *body, end]
    for text in ("Which colour", both.bos_token + "Which colour"):
        assert token_seam.plain_ids(both, text) == (begin, *body)
        ((option,), prompt) = reversed(encode_plain(both, text, " blue"))
        assert prompt == (begin, *body)
        assert both.decode(option) == " blue"
    assert token_seam.plain_ids(both, "Which" + both.eos_token)[-1] == end  # written by the prompt itself
    assert token_seam.plain_ids(both, "") == (begin,)
    assert token_seam.plain_ids(words(closes=True), "") == ()


def encode_plain(tokenizer: Any, text: str, option: str) -> tuple[Any, Any]:
    found = encode(speaking(tokenizer), with_continuations(user_turn(text, chat=False), option))
    return found.ids, found.options


@pytest.mark.parametrize("opens", [True, False])
def test_behind_nothing_stands_one_opening_token(opens: bool) -> None:
    tokenizer = words(opens=opens, bos=True)
    body = tuple(tokenizer("blue", add_special_tokens=False)["input_ids"])
    for text in ("blue", tokenizer.bos_token + "blue"):
        assert encode_plain(tokenizer, "", text) == ((tokenizer.bos_token_id,), (body,))


def test_an_option_that_adds_nothing_is_refused_beside_one_that_merges() -> None:
    with pytest.raises(ValueError, match="The option '' adds no token"):
        encode(speaking(words(SPACED)), with_continuations(QUESTION, "blue", ""))


def test_thinking_is_what_the_template_is_told() -> None:
    lm = speaking(words("{{ enable_thinking if enable_thinking is defined else 'unset' }}"))
    told = {
        (lm_eval, thinking): render(lm, replace(QUESTION, reading=Reading(lm_eval, thinking)))
        for lm_eval in (False, True)
        for thinking in (None, False, True)
    }
    assert [told[False, t] for t in (None, False, True)] == ["False", "False", "True"]
    assert [told[True, t] for t in (None, False, True)] == ["unset", "False", "True"]


def test_the_record_says_which_seam_and_what_thinking_does() -> None:
    template = "{% if enable_thinking %}<think>{% endif %}" + CHATML
    speakers = {"receiver": speaking(words(template)), "sharer": speaking(words()), "bare": speaking(words(None))}
    found = prompt_settings(Reading(thinking=False), speakers)
    assert found["seam"].startswith("kept")
    assert found["enable_thinking"] == "false"
    assert found["enable_thinking, receiver"] == "changes the prompt"
    assert found["enable_thinking, sharer"] == "no effect on this chat template"
    assert found["enable_thinking, bare"].startswith("unknown")
    theirs = prompt_settings(Reading(as_lm_eval=True), {})
    assert (theirs["seam"].split(":")[0], theirs["enable_thinking"]) == ("as lm-eval's hf", "not passed")
