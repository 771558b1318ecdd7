"""Prompts, options and stops under lm-eval: `single` gives the numbers and texts of lm-eval's own `hf`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from harness.errors import UserError
from harness.lm_eval_bridge.model import ChannelLM, SingleLM
from tests.support.seams import CHATML, SPACED, model_folder, words
from tests.support.tiny import GOLDEN, OURS

OPTIONS = (" blue", "blue or green", "A", "\nA", "<s>blue")
EMPTY_THOUGHT = CHATML.replace("<|im_start|>assistant\n{%", "<|im_start|>assistant\n<think>\n\n</think>\n\n{%")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHATML
KINDS: dict[str, tuple[str, dict[str, bool]]] = {
    "chatml": (CHATML, {}),
    "spaced-opens": (SPACED, {"opens": True}),
    "begun-opens": ("{{ bos_token }}" + CHATML, {"opens": True}),
    "thought-bos": (EMPTY_THOUGHT, {"bos": True}),
    "no-system-closes": (NO_SYSTEM, {"closes": True}),
}
ASKED = [{"role": "user", "content": "Which colour? "}]
LONGER = [{"role": "system", "content": "Be brief."}, *ASKED, {"role": "assistant", "content": "blue"}, *ASKED]
CONTEXT = 96


def instances(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, a, i, task_name="t", doc_id=i, repeats=1) for i, a in enumerate(arguments)]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ChannelLM]:
    template, how = KINDS[request.param]
    folder = model_folder(tmp_path_factory.mktemp("m"), words(template, **how), max_position_embeddings=CONTEXT)
    return stock(folder), SingleLM(receiver=folder, device="cpu", dtype="float32", batch_size=4)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ChannelLM]:
    folder = model_folder(tmp_path_factory.mktemp("m"), words(opens=True), max_position_embeddings=CONTEXT)
    return stock(folder), SingleLM(receiver=folder, device="cpu", dtype="float32", batch_size=4)


def stock(folder: str) -> Any:
    return HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=1)


def chats(lm: Any) -> list[str]:
    """The same conversations as this model's `apply_chat_template` hands them to its requests."""
    openings = ("The answer is", "The answer is ", "Answer:\n\n")
    opened = [[*ASKED, {"role": "assistant", "content": opening}] for opening in openings]
    return [*map(lm.apply_chat_template, (ASKED, LONGER)), *(lm.apply_chat_template(h, False) for h in opened)]


def scored(lm: Any, contexts: list[str]) -> list[tuple[float, bool]]:
    found = lm.loglikelihood(instances("loglikelihood", *[(c, o) for c in contexts for o in OPTIONS]))
    return [(pytest.approx(value, abs=1e-4), greedy) for value, greedy in found]


def test_options_behind_chats_score_as_in_lm_eval(pair: tuple[Any, ChannelLM]) -> None:
    theirs, ours = pair
    expected = theirs.loglikelihood(instances("loglikelihood", *[(c, o) for c in chats(theirs) for o in OPTIONS]))
    assert scored(ours, chats(ours)) == expected


def test_options_behind_plain_text_score_as_in_lm_eval(pair: tuple[Any, ChannelLM]) -> None:
    contexts = ["Which colour", "Which colour ", "Which\n\n", "<s>Which colour", "<|endoftext|>Which", "", "<s>"]
    theirs, ours = pair
    expected = theirs.loglikelihood(instances("loglikelihood", *[(c, o) for c in contexts for o in OPTIONS]))
    assert scored(ours, contexts) == expected


@pytest.mark.parametrize(
    ("add", "how"),
    [(True, {"bos": True}), (True, {"opens": True, "closes": True}), (False, {"opens": True, "closes": True})],
    ids=str,
)
def test_a_bos_that_is_asked_for_stands_where_lm_eval_puts_it(tmp_path: Path, add: bool, how: dict[str, bool]) -> None:
    given: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_size": 1, "add_bos_token": add}
    folder = model_folder(tmp_path, words(**how), num_hidden_layers=1)
    theirs, ours = HFLM(pretrained=folder, **given), SingleLM(receiver=folder, **given)
    for their_context, our_context in zip([*chats(theirs)[:2], "Sky"], [*chats(ours)[:2], "Sky"], strict=True):
        expected = theirs.loglikelihood(instances("loglikelihood", (their_context, "A"), (their_context, "<s>blue")))
        found = ours.loglikelihood(instances("loglikelihood", (our_context, "A"), (our_context, "<s>blue")))
        assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
        text = {"until": [], "max_gen_toks": 4}
        expected_text = theirs.generate_until(instances("generate_until", (their_context, {**text})))
        assert ours.generate_until(instances("generate_until", (our_context, text))) == expected_text


STOPS: list[dict[str, Any]] = [
    {"until": ["<|im_end|>", "<|im_start|>", "<s>"], "max_gen_toks": 24},
    {"until": ["<|im_end|>e", "g<|im_start|>"], "max_gen_toks": 24},
    {"until": [""], "max_gen_toks": 5},
    {"until": "e", "max_gen_toks": 9, "do_sample": False, "temperature": 0.7},
    {"until": [], "max_length": 90, "max_gen_toks": 8},
    {"until": None, "max_completion_tokens": 3, "temperature": 0.0},
]


@pytest.mark.parametrize("settings", STOPS, ids=str)
def test_texts_end_where_lm_evals_do(pair: tuple[Any, ChannelLM], settings: dict[str, Any]) -> None:
    theirs, ours = pair
    given = {**settings, "until": settings["until"] or []}  # lm-eval's `hf` fails at None
    contexts = zip(
        [*chats(theirs), "Which colour", "<s>Which"], [*chats(ours), "Which colour", "<s>Which"], strict=True
    )
    for their_context, our_context in contexts:
        expected = theirs.generate_until(instances("generate_until", (their_context, {**given})))
        assert ours.generate_until(instances("generate_until", (our_context, settings))) == expected


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({"temperature": "0"}, {}),
        ({"do_sample": False, "temperature": "0.7", "top_p": 0.9}, {}),
        ({"do_sample": "false", "num_beams": "1", "repetition_penalty": "1.0"}, {}),
        ({"max_gen_toks": "4"}, {"max_gen_toks": 4}),
        ({"max_gen_toks": 4.0, "max_new_tokens": 9}, {"max_gen_toks": 4}),
        ({"max_completion_tokens": 4}, {"max_gen_toks": 4}),
        ({"max_length": "60"}, {"max_length": 60}),
    ],
    ids=str,
)
def test_greedy_synonyms_and_numbers_as_text(
    plain: tuple[Any, ChannelLM], one: dict[str, Any], same: dict[str, Any]
) -> None:
    base = {"max_gen_toks": 6} if not {*same} else {}
    _, ours = plain
    texts = [ours.generate_until(instances("generate_until", ("Which", {**base, **s}))) for s in (one, same)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True},
        {"do_sample": True, "temperature": 0},
        {"temperature": "0.5"},
        {"temperature": "warm"},
        {"num_beams": "2"},
        {"max_gen_toks": "many"},
        {"max_gen_toks": 2.5},
        {"max_length": True},
    ],
    ids=str,
)
def test_sampling_and_bad_numbers_are_refused(plain: tuple[Any, ChannelLM], settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        plain[1].generate_until(instances("generate_until", ("Which", settings)))


def test_prompts_that_are_too_long_are_cut_as_in_lm_eval_and_counted(
    plain: tuple[Any, ChannelLM], caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours = plain
    contexts = ["Which colour is the sky? " * 30, "Which colour is the sky? " * 7, "Which"]
    expected = theirs.loglikelihood(instances("loglikelihood", *[(c, o) for c in contexts for o in OPTIONS]))
    with caplog.at_level(logging.WARNING, "harness.lm_eval_bridge.model"):
        assert scored(ours, contexts) == expected
    long = sum(len(theirs.tok_encode(c + o)) > CONTEXT + 1 for c in contexts for o in OPTIONS)
    assert len(OPTIONS) <= long < 3 * len(OPTIONS)
    (record,) = [r for r in caplog.records if "cut on the left" in r.getMessage()]
    assert record.getMessage().startswith(f"{long} of ")
    asked = ("generate_until", (contexts[0], {"until": [], "max_gen_toks": 6}))
    assert ours.generate_until(instances(*asked)) == theirs.generate_until(instances(*asked))


def test_room_is_counted_in_tokens(plain: tuple[Any, ChannelLM]) -> None:
    theirs, ours = plain
    tokens = len(theirs.tok_encode("Which colour is the sky?" * 9))
    wide = "\u0e19\u0e49\u0e33" * 4  # 12 characters, 36 tokens
    assert tokens + 36 > CONTEXT > tokens + 12
    asked = instances(
        "loglikelihood", ("Which colour is the sky?" * 9, wide), ("Which", " The correct answer is blue" * 9)
    )
    assert ours.loglikelihood(asked) == [(pytest.approx(v, abs=1e-4), g) for v, g in theirs.loglikelihood(asked)]


def test_rolling_windows_are_lm_evals(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, words(bos=True), max_position_embeddings=32)
    texts = [("The sky over the sea is blue. " * n,) for n in (0, 1, 4, 13)] + [("",), ("A",)]
    asked = instances("loglikelihood_rolling", *texts)
    ours = SingleLM(receiver=folder, device="cpu", dtype="float32", batch_size=4)
    assert ours.loglikelihood_rolling(asked) == pytest.approx(stock(folder).loglikelihood_rolling(asked), abs=1e-3)


def test_a_rolling_text_is_opened_once_and_never_closed(tmp_path: Path) -> None:
    """lm-eval's `hf` scores the tokens that a tokenizer adds by itself as if they were text; here they are not."""
    texts = instances("loglikelihood_rolling", ("The sky over the sea.",), ("<s>The sky over the sea.",), ("",))
    opened = model_folder(tmp_path / "a", words(opens=True, closes=True))
    bare = model_folder(tmp_path / "b", words(bos=True), eos_token_id=words(closes=True).eos_token_id)
    found = [SingleLM(receiver=f, device="cpu", dtype="float32").loglikelihood_rolling(texts) for f in (opened, bare)]
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    assert found[0][0] == pytest.approx(found[0][1], abs=1e-6)
    assert found[0][2] == 0


@pytest.mark.parametrize("thinking", [None, False, True])
def test_thinking_is_passed_only_when_it_is_set(thinking: bool | None) -> None:
    model, asked = str(GOLDEN / OURS), {} if thinking is None else {"enable_thinking": thinking}
    theirs = HFLM(pretrained=model, device="cpu", dtype="float32", think_end_token="</think>", **asked)
    ours = SingleLM(receiver=model, device="cpu", dtype="float32", **asked)
    settings = {"until": [], "max_gen_toks": 4}
    theirs.think_end_token = None
    expected, found = (
        lm.generate_until(instances("generate_until", (chats(lm)[0], {**settings}))) for lm in (theirs, ours)
    )
    assert found == expected
