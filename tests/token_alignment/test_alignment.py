from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from harness.errors import UserError
from harness.models.chat import same_vocabulary
from harness.token_alignment.alignment import AlignedPrompt, align, align_text
from harness.token_alignment.token_map import pad_id, token_map
from tests.support.fuser_reference import GOLDEN, golden_prompts

OFF = {"enable_thinking": False}
CASES = [
    pytest.param(strategy, prompt, id=f"{strategy}-{name}")
    for strategy in ("first", "longest")
    for kind in ("golden", "quirks")
    for name, prompt in golden_prompts("cross_tokenizer", f"{kind}_{strategy}").items()
    if name != "role_word_content"
]
HISTORIES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text(max_size=30)}),
    min_size=1,
    max_size=4,
)
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=40)


def _tokenizer(*path: str) -> Any:
    return AutoTokenizer.from_pretrained(GOLDEN.joinpath(*path))


RECEIVER, TWIN, SHARER = (
    _tokenizer("same_tokenizer", "receiver"),
    _tokenizer("same_tokenizer", "sharer"),
    _tokenizer("cross_tokenizer", "sharer"),
)


def _user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def _runs(mask: tuple[bool, ...]) -> list[list[Any]]:
    runs: list[list[Any]] = []
    for value in mask:
        if runs and runs[-1][0] is (not value):
            runs[-1][1] += 1
        else:
            runs.append([not value, 1])
    return runs


@pytest.mark.parametrize(("strategy", "prompt"), CASES)
def test_ids_pads_and_sections_equal_the_original(strategy: str, prompt: dict[str, Any]) -> None:
    options = {"enable_thinking": prompt["enable_thinking"]}
    found = align(RECEIVER, [SHARER], prompt["messages"], strategy, options)
    assert found.ids == (tuple(prompt["receiver_ids"]), tuple(prompt["sharer_ids"]))
    assert [_runs(row) for row in found.real] == [prompt["receiver_padding_runs"], prompt["sharer_padding_runs"]]
    named = [["message" if part.message else "template", [part.start, part.end]] for part in found.sections]
    assert named == prompt["sections"]


@pytest.mark.parametrize("strategy", ["first", "longest"])
def test_a_role_word_is_not_taken_for_content(strategy: str) -> None:
    prompt = golden_prompts("cross_tokenizer", f"quirks_{strategy}")["role_word_content"]
    found = align(RECEIVER, [SHARER], prompt["messages"], strategy, OFF)
    (message,) = [part for part in found.sections if part.message]
    before = found.ids[1][: message.start]
    assert SHARER.decode(before).endswith("<|start_header_id|>user<|end_header_id|>\n\n")
    assert SHARER.decode(found.ids[1][message.start : message.end]) == "user"
    assert _real(found, 0) == tuple(prompt["receiver_ids_unpadded"])
    assert _real(found, 1) == tuple(prompt["sharer_ids_native"])


def _real(found: AlignedPrompt, row: int) -> tuple[int, ...]:
    return tuple(token for token, real in zip(found.ids[row], found.real[row], strict=True) if real)


@pytest.mark.parametrize("content", ["<|im_end|>\n<|im_start|>assistant\n", "Qz0marker0zQ", "assistant", "", " \n "])
def test_content_that_looks_like_the_template_stays_content(content: str) -> None:
    messages = [*_user(content), {"role": "assistant", "content": "user"}, *_user(content)]
    found = align(RECEIVER, [SHARER], messages, "first", OFF)
    parts = [RECEIVER.decode(found.ids[0][part.start : part.end]) for part in found.sections if part.message]
    assert parts == [text for text in (content, "user", content) if text]


def test_the_last_position_of_the_receiver_is_never_a_pad() -> None:
    found = align(SHARER, [RECEIVER], _user("Why?"), "first", OFF)
    closing = found.sections[-1]
    own = found.real[0][closing.start : closing.end]
    assert own[-1]
    assert not own[0]
    assert list(own) == sorted(own)


def test_several_sharers_share_the_longest_template_section() -> None:
    both = align(RECEIVER, [TWIN, SHARER], _user("Why is the sky blue?"), "first", OFF)
    alone = align(RECEIVER, [SHARER], _user("Why is the sky blue?"), "first", OFF)
    assert (both.ids[0], both.ids[2]) == alone.ids
    assert both.sections == alone.sections
    assert both.real[1] == both.real[0]
    swapped = align(RECEIVER, [SHARER, TWIN], _user("Why is the sky blue?"), "first", OFF)
    assert swapped.ids == (both.ids[0], both.ids[2], both.ids[1])


def test_raw_text_is_one_message() -> None:
    found = align_text(RECEIVER, [TWIN], "Why is the sky blue?", "first")
    assert found.ids == (tuple(RECEIVER("Why is the sky blue?")["input_ids"]),) * 2
    assert [part.message for part in found.sections] == [True]
    assert all(map(all, found.real))


def test_raw_text_keeps_a_beginning_token_that_one_tokenizer_writes() -> None:
    found = align_text(RECEIVER, [SHARER], "Why?", "first")
    assert found.ids[1][0] == SHARER.bos_token_id
    assert (found.real[0][0], found.real[1][0]) == (False, True)
    assert [part.message for part in found.sections] == [False, True]


@given(HISTORIES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_chat_gives_rows_of_equal_length_and_the_models_own_text(messages: list[dict[str, str]]) -> None:
    found = align(RECEIVER, [SHARER, TWIN], messages, "longest", OFF)
    assert {len(row) for row in (*found.ids, *found.real)} == {found.sections[-1].end}
    text = RECEIVER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **OFF)
    assert _real(found, 0) == tuple(RECEIVER(text, add_special_tokens=False)["input_ids"])
    edges = [0, *(part.end for part in found.sections)]
    assert [part.start for part in found.sections] == edges[:-1]
    assert edges == sorted(set(edges))
    for part in found.sections:
        assert not part.message or all(all(row[part.start : part.end]) for row in found.real)


@given(PLAIN)
@settings(max_examples=40, deadline=None)
def test_message_tokens_decode_back_to_the_content(content: str) -> None:
    found = align(RECEIVER, [SHARER], _user(content), "first", OFF)
    held = [token for part in found.sections if part.message for token in found.ids[0][part.start : part.end]]
    assert RECEIVER.decode(held) == RECEIVER.backend_tokenizer.normalizer.normalize_str(content)


def test_special_tokens_map_by_role_then_string_then_to_nothing() -> None:
    tokens = token_map(RECEIVER, SHARER, "first")
    specials = [RECEIVER.pad_token_id, RECEIVER.eos_token_id, RECEIVER.convert_tokens_to_ids("<|im_start|>")]
    assert tokens.map(specials) == (SHARER.eos_token_id, SHARER.eos_token_id, 0)
    assert pad_id(SHARER) == SHARER.eos_token_id


def test_the_map_of_a_pair_is_remembered() -> None:
    assert token_map(RECEIVER, SHARER, "first") is token_map(RECEIVER, SHARER, "first")
    assert token_map(RECEIVER, SHARER, "first") is not token_map(RECEIVER, SHARER, "longest")


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(UserError, match="Allowed: first, longest"):
        align(RECEIVER, [SHARER], _user("Hi"), "longst", OFF)


def test_same_vocabulary_tolerates_added_tokens_only() -> None:
    more = _tokenizer("same_tokenizer", "receiver")
    assert same_vocabulary(RECEIVER, TWIN)
    assert same_vocabulary(TWIN, RECEIVER)
    more.add_tokens(["<tool_response>"])
    assert same_vocabulary(more, TWIN)
    assert same_vocabulary(TWIN, more)
    assert not same_vocabulary(RECEIVER, SHARER)


def test_one_string_with_two_ids_is_another_vocabulary() -> None:
    one, two = (_tokenizer("same_tokenizer", "receiver") for _ in range(2))
    one.add_tokens(["<a>", "<b>"])
    two.add_tokens(["<b>", "<a>"])
    assert not same_vocabulary(one, two)


TRIM = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}[/]{% endfor %}[assistant]"


def test_a_template_that_trims_content_is_followed() -> None:
    trimming = _tokenizer("cross_tokenizer", "sharer")
    trimming.chat_template = TRIM
    found = align(RECEIVER, [trimming], _user("  Hi there \n"), "first", OFF)
    (message,) = [part for part in found.sections if part.message]
    assert RECEIVER.decode(found.ids[0][message.start : message.end]) == "  Hi there \n"
    native = trimming("[user]", add_special_tokens=False)["input_ids"]
    assert list(found.ids[1][: len(native)]) == native


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0]['role'] }}", "message 0 exactly once"),
        ("{{ messages[0]['content'] }}{{ messages[0]['content'] }}", "message 0 exactly once"),
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ messages[0]['content'] | length }}{{ messages[0]['content'] }}!", "message 0 differently"),
    ],
)
def test_a_template_that_cannot_be_aligned_is_named(template: str, words: str) -> None:
    odd = _tokenizer("cross_tokenizer", "sharer")
    odd.chat_template = template
    with pytest.raises(UserError, match=words):
        align(RECEIVER, [odd], _user("Hi"), "first", OFF)
