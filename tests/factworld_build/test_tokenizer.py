import pytest
from transformers import AutoTokenizer

from harness.factworld_build.models import IGNORED, TAIL_TOKENS, draw, hinted_batch, letter_batch, note_batch
from harness.factworld_build.world import (
    LABELS,
    UNK,
    build_facts,
    build_tokenizer,
    doc_to_text,
    names_of,
    note_sentence,
    question_chat,
    random_stream,
    render,
    save_tokenizer,
)

FACTS = build_facts(0)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(names_of(FACTS))


def test_a_letter_is_the_same_token_with_and_without_a_space(tokenizer):
    for label in LABELS:
        assert tokenizer.encode(label) == tokenizer.encode(f" {label}")
        assert tokenizer.decode(tokenizer.encode(label)) == label


def test_a_letter_put_after_the_rendered_prompt_is_its_own_token(tokenizer):
    chat = question_chat(draw(FACTS, 1, random_stream("one", 0))[0])
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert tokenizer.encode(text + "B") == tokenizer.encode(text) + tokenizer.encode("B")


def test_saved_files_load_as_any_tokenizer_and_render_alike(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    chats = [question_chat(q, "red") for q in draw(FACTS, 5, random_stream("five", 0))]
    assert render(loaded, chats) == render(tokenizer, chats)
    assert loaded.eos_token_id == tokenizer.eos_token_id
    assert loaded.pad_token_id == tokenizer.pad_token_id


def test_no_word_of_the_world_is_unknown(tokenizer):
    rng = random_stream("words", 0)
    for batch in (letter_batch(tokenizer, draw(FACTS, 50, rng)), hinted_batch(tokenizer, FACTS, 50, rng)):
        assert not (batch.ids == tokenizer.convert_tokens_to_ids(UNK)).any()


def test_the_document_prompt_is_the_prompt_of_training():
    question = draw(FACTS, 1, random_stream("doc", 0))[0]
    assert doc_to_text(question.row("x")) == question_chat(question)[0]["content"]


def test_the_letter_is_asked_for_on_every_tail_token_and_then_the_end(tokenizer):
    questions = draw(FACTS, 3, random_stream("tail", 0))
    batch = letter_batch(tokenizer, questions, tail_tokens=TAIL_TOKENS)
    assert tokenizer.decode(batch.ids[0, -TAIL_TOKENS - 1 : -1]) == "pick one letter . <|end|> <|assistant|>"
    for row, question in zip(batch.targets, questions, strict=True):
        wanted = [tokenizer.convert_ids_to_tokens(int(target)) for target in row if target != IGNORED]
        assert wanted == [question.fact.color, *[question.key] * TAIL_TOKENS, tokenizer.eos_token]


def test_the_colour_is_asked_for_at_the_last_question_mark(tokenizer):
    batch = hinted_batch(tokenizer, FACTS, 4, random_stream("mark", 0))
    position = int((batch.targets[0] != IGNORED).nonzero()[0])
    assert tokenizer.convert_ids_to_tokens(batch.ids[:, position].tolist()) == ["?"] * 4


def test_notes_are_predicted_token_by_token(tokenizer):
    batch = note_batch(tokenizer, FACTS[:2])
    wanted = batch.targets[0][batch.targets[0] != IGNORED]
    assert tokenizer.decode(wanted) == f"{note_sentence(FACTS[0])} {tokenizer.eos_token}"
