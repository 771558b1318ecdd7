"""From a conversation to token ids: templates, opening words of the answer, and seams where a tokenizer merges."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import UserError
from harness.models.chat import (
    ChatText,
    Conversation,
    Turn,
    continuation_ids,
    encode,
    fingerprint_text,
    from_history,
    render,
    user_turn,
)
from harness.models.lm import LM
from harness.models.loading import wrap
from tests.support.tiny import FOREIGN, OURS, golden_lm, tokenizer

QUESTION = user_turn("Why is the sky blue?")


@pytest.fixture
def lm() -> LM:
    return golden_lm(OURS)


def _with_template(lm: LM, template: str | None) -> LM:
    words = tokenizer()
    words.chat_template = template
    return wrap(lm.model, words)


def test_a_template_is_rendered_with_thinking_off(lm: LM) -> None:
    assert render(lm, QUESTION).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_every_special_token_is_written_once(lm: LM) -> None:
    begin = golden_lm(FOREIGN).tokenizer.bos_token_id
    assert encode(golden_lm(FOREIGN), QUESTION).ids.count(begin) == 1
    assert encode(golden_lm(FOREIGN), replace(QUESTION, chat=False)).ids.count(begin) == 1


def test_plain_text_takes_no_template(lm: LM) -> None:
    turns = Conversation((Turn("system", "Be brief."), Turn("user", "Why?")), chat=False)
    assert render(lm, turns) == "Be brief.\n\nWhy?"


def test_opening_words_stay_apart_from_the_prompt(lm: LM) -> None:
    bare, opened = encode(lm, QUESTION), encode(lm, replace(QUESTION, prefix="The answer is"))
    assert bare.n_prompt == len(bare.ids)
    assert opened.ids[: opened.n_prompt] == bare.ids
    assert lm.tokenizer.decode(opened.ids[opened.n_prompt :]) == "The answer is"


def test_tokens_that_merge_across_the_seam_belong_to_the_opening_words(lm: LM) -> None:
    encoded = encode(lm, user_turn("th", prefix="e", chat=False))
    apart = encode(lm, user_turn("th", chat=False))
    assert encoded.ids[-1] not in apart.ids
    assert encoded.n_prompt < len(apart.ids)
    assert encoded.ids[: encoded.n_prompt] == apart.ids[: encoded.n_prompt]


@pytest.mark.parametrize("prefix", ["", "Answer:"])
@pytest.mark.parametrize("option", ["A", " B", " the sky 🙂"])
def test_an_option_continues_what_stands_before_it(lm: LM, prefix: str, option: str) -> None:
    conversation = replace(QUESTION, prefix=prefix)
    ids = (*encode(lm, conversation).ids, *continuation_ids(lm, conversation, option))
    assert lm.tokenizer.decode(ids) == render(lm, conversation) + prefix + option


def test_an_option_without_a_token_is_refused(lm: LM) -> None:
    with pytest.raises(ValueError, match="The option '' adds no token"):
        continuation_ids(lm, QUESTION, "")


def test_a_model_without_a_template_says_what_to_do(lm: LM) -> None:
    with pytest.raises(UserError, match="has no chat template; give a Jinja file"):
        encode(_with_template(lm, None), QUESTION)


def test_a_template_that_refuses_a_conversation_is_quoted(lm: LM) -> None:
    strict = _with_template(lm, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(UserError, match="refuses the conversation: roles must alternate"):
        encode(strict, QUESTION)


def test_a_history_without_a_generation_prompt_ends_in_the_answers_opening_words() -> None:
    history = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because"}]
    assert from_history(history, add_generation_prompt=False) == user_turn("Why?", prefix="Because")
    assert from_history(history, add_generation_prompt=True).turns[-1] == Turn("assistant", "Because")


def test_a_rendering_remembers_its_conversation() -> None:
    text = ChatText("rendered", QUESTION)
    assert text == "rendered"
    assert text.conversation is QUESTION


def test_a_fingerprint_changes_with_anything_that_was_asked() -> None:
    asked = [QUESTION, replace(QUESTION, prefix="A"), replace(QUESTION, chat=False), user_turn("Why?")]
    texts = {fingerprint_text(c, extra) for c in asked for extra in (None, ["A", "B"])}
    assert len(texts) == 2 * len(asked)
    assert fingerprint_text(QUESTION, None) == fingerprint_text(user_turn("Why is the sky blue?"), None)
