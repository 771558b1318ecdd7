"""Models behind lm-eval: told apart by caches and names, recorded with what they are and how long they take."""

from __future__ import annotations

import copy
import functools
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM

from harness.benchmarks.requests import chat_text
from harness.errors import RunError, UserError
from harness.lm_eval_bridge.arguments import SINGLE, setup_of
from harness.lm_eval_bridge.model import ChannelLM, FusedLM, SingleLM, TextLM
from harness.lm_eval_bridge.record import model_name, name_in
from tests.support.relay import LETTERS, LETTERS_FILE, PATHS, WORDS


@functools.cache
def single(**more: Any) -> SingleLM:
    return SingleLM(receiver=PATHS["receiver"], device="cpu", batch_size=20, **more)


@functools.cache
def fused() -> FusedLM:
    return FusedLM(**PATHS, device="cpu", batch_size=20)


def accuracy(lm: Any, tmp_path: Path, task: str = WORDS, **more: Any) -> float:
    from harness.benchmarks.registry import task_manager

    options = {"limit": 30, "apply_chat_template": True, "bootstrap_iters": 0, "use_cache": str(tmp_path / "cache")}
    found = simple_evaluate(model=lm, tasks=[task], task_manager=task_manager(), **{**options, **more})
    return float(found["results"][task]["acc,paper"])


def asked(kind: str, *arguments: tuple[Any, ...], doc: dict[str, Any] | None = None) -> list[Instance]:
    return [Instance(kind, doc or {}, a, i, task_name="t", doc_id=i, repeats=1) for i, a in enumerate(arguments)]


class Counted:
    """Counts what a model is asked itself."""

    def __init__(self, lm: ChannelLM, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests = 0
        usual = lm.generate_until

        def counted(requests: Any, **more: Any) -> Any:
            self.requests += len(requests)
            return usual(requests, **more)

        monkeypatch.setattr(lm, "generate_until", counted)


def test_models_that_share_a_cache_keep_their_own_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, together = accuracy(single(), tmp_path, use_cache=None), accuracy(fused(), tmp_path, use_cache=None)
    assert together > alone + 0.3
    assert accuracy(single(), tmp_path) == alone
    assert accuracy(fused(), tmp_path) == together
    counts = [Counted(lm, monkeypatch) for lm in (single(), fused())]
    assert accuracy(fused(), tmp_path) == together
    assert accuracy(single(), tmp_path) == alone
    assert [count.requests for count in counts] == [0, 0]


def test_a_cache_of_answers_knows_weights_templates_and_settings(tmp_path: Path) -> None:
    from harness.lm_eval_bridge.record import cache_identity

    def key(lm: ChannelLM) -> str:
        return cache_identity(lm.setup, lm.cast, lm.description)

    base = {"receiver": PATHS["receiver"], "device": "cpu"}
    models = [SingleLM(**base, **more) for more in ({}, {"dtype": "bfloat16"}, {"max_length": 64})]
    models += [SingleLM(**base, receiver_chat_template="simple"), SingleLM(**base, add_bos_token=True)]
    models += [SingleLM(receiver=PATHS["sharer"], device="cpu"), fused()]
    models += [TextLM(**base, sharer=PATHS["sharer"], max_new_tokens=n) for n in (4, 5)]
    assert len({key(lm) for lm in models}) == len(models)
    assert key(SingleLM(**base, batch_size=3)) == key(models[0])


def test_what_is_answered_before_a_failure_is_kept(tmp_path: Path) -> None:
    good, bad = (("Hi", " there"), ("Well", " then")), ("Hi " * 100_000, " there")
    lm = single()
    for kind, arguments, long in (
        ("loglikelihood", good, bad),
        ("generate_until", tuple((text, {"max_gen_toks": 2}) for text, _ in good), (bad[0], {"max_gen_toks": 2})),
    ):
        cached = CachingLM(lm, str(tmp_path / f"{kind}.db"))
        _fails_at_the_long_one(cached, kind, arguments, long)
        monkeypatched = pytest.MonkeyPatch()
        monkeypatched.setattr(lm, kind, lambda *_: pytest.fail("asked again"))
        assert len(getattr(cached, kind)(asked(kind, *arguments))) == len(good)
        monkeypatched.undo()


def _fails_at_the_long_one(cached: CachingLM, kind: str, arguments: Any, long: Any) -> None:
    from harness.channels import engine
    from harness.inference import types

    usual = engine._measure

    def measured(channel: Any, requests: Any) -> Any:
        lengths, faults = usual(channel, requests)
        lost = [i for i, r in enumerate(requests) if r.query.receiver.plain.startswith("Hi Hi")]
        fault = types.Fault("PromptTooLong", "too long", "")
        return {i: n for i, n in lengths.items() if i not in lost}, [(i, fault) for i in lost] or faults

    patch = pytest.MonkeyPatch()
    patch.setattr(engine, "_measure", measured)
    with pytest.raises(RunError, match="1 of 3 requests failed"):
        getattr(cached, kind)(asked(kind, *arguments, long))
    patch.undo()


def test_a_text_sharer_refuses_rows_that_a_cache_takes_for_one(tmp_path: Path) -> None:
    lm = TextLM(receiver=PATHS["receiver"], sharer=PATHS["sharer"], device="cpu", max_new_tokens=2)
    rows = [asked("generate_until", ("x", {"max_gen_toks": 2}), doc={"question": q})[0] for q in ("who ?", "where ?")]
    assert len(lm.generate_until(rows)) == 2
    with pytest.raises(UserError, match="--use_cache"):
        CachingLM(lm, str(tmp_path / "c.db")).generate_until(rows)


def test_a_rendered_chat_copies_and_pickles() -> None:
    text = chat_text([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because"}], False)
    for again in (copy.copy(text), copy.deepcopy(text), *(pickle.loads(pickle.dumps(text, p)) for p in range(2, 6))):
        assert type(again) is type(text)
        assert (again, again.conversation) == (text, text.conversation)


def test_a_model_says_what_it_is() -> None:
    info = fused().get_model_info()
    assert json.loads(json.dumps(info)) == info
    assert info["model_num_parameters"] == sum(p.numel() for p in fused().channel.answers.model.parameters())
    assert (info["model_dtype"], info["max_length"]) == ("float32", fused().channel.answers.max_length)
    assert info["model_sha"] == info["models"][0]["fingerprint"] != info["models"][1]["fingerprint"]
    assert info["model_name"] == model_name(PATHS["receiver"], [PATHS["sharer"]], [PATHS["fuser"]])
    assert (info["channel"], info["fusers"][0]["reference"]) == ("c2c", PATHS["fuser"])
    assert "latency" not in info


@pytest.mark.parametrize(("asked_for", "task"), [(LETTERS_FILE, LETTERS), (WORDS, WORDS)])
def test_latencies_stand_in_the_results(tmp_path: Path, asked_for: str, task: str) -> None:
    from harness.benchmarks.registry import task_manager

    lm = single(latency_samples=3, latency_warm_up=1)
    lm.asked.clear()
    found = simple_evaluate(
        model=lm, tasks=[asked_for], task_manager=task_manager(), limit=5, apply_chat_template=True, bootstrap_iters=0
    )
    measured = found["config"]["latency"][task]
    assert measured["latency_n"] == 6
    assert 0 < measured["ttft_s_p50"] <= measured["e2e_s_p50"] <= measured["e2e_s_p99"]
    assert ("tpot_s_p50" in measured) == (task == WORDS)
    assert measured["conditions"] == "batch 1, 1 warm-up requests, 2 rounds of 3 requests"


def test_names_are_those_of_the_models() -> None:
    assert name_in({"receiver": "org/r"}) == "org/r"
    assert name_in({"receiver": "org/r", "peft": "org/p"}) == "org/p"
    assert name_in({"pretrained": "org/r"}) is None  # lm-eval names it as it names its own
    pairs = [
        {"receiver": "a/r", "sharer": "b/s", "fuser": "f"},
        {"pretrained": "a/r", "sharer": "b/s", "fuser": "g"},
        {"receiver": "a/r", "sharer": "c/s", "fuser": "f"},
        {"receiver": "a/r", "sharer": "b/s"},
        {"receiver": "a/r", "sharer": "b/s;c/s", "fuser": "f;f"},
    ]
    names = [name_in(pair) for pair in pairs]
    assert len(set(names)) == len(pairs)
    assert all(name and name.startswith("r+s") and len(name) < 200 for name in names)
    assert name_in({"base_url": "http://x", "model": "m"}) is None


def test_flags_and_arguments_are_joined_or_refused() -> None:
    lm = SingleLM.create_from_arg_string(
        f"receiver={PATHS['receiver']},device=cpu,batch_size=3", {"device": "cuda:0", "batch_size": 1}
    )
    assert (lm.budget.batch_size, lm.channel.answers.device.type) == (3, "cpu")
    with pytest.raises(UserError, match="--batch_size is 4"):
        SingleLM.create_from_arg_obj({"receiver": PATHS["receiver"], "batch_size": 3}, {"batch_size": 4})


def test_a_shorter_context_is_kept_to() -> None:
    lm = single(max_length=16)
    assert lm.max_length == lm.channel.answers.max_length == 16
    with pytest.raises(UserError, match="give at most that"):
        SingleLM(receiver=PATHS["receiver"], device="cpu", max_length=10**6)


def test_an_adapter_is_merged_into_the_model_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no adapter"):
        SingleLM(receiver=PATHS["receiver"], device="cpu", peft=PATHS["sharer"])


def test_a_model_without_a_template_reads_plain_prompts(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(PATHS["receiver"], folder, ignore=shutil.ignore_patterns("chat_template*"))
    lm = SingleLM(receiver=str(folder), device="cpu")
    assert lm.loglikelihood(asked("loglikelihood", ("Hi", " there")))[0][0] < 0
    chat = lm.apply_chat_template([{"role": "user", "content": "Hi"}])
    with pytest.raises(UserError, match="no chat template"):
        lm.loglikelihood(asked("loglikelihood", (chat, " there")))


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(UserError, match="cuda:9"):
        SingleLM(receiver=PATHS["receiver"], device="cuda:9")


def test_arguments_reach_the_model() -> None:
    lm = SingleLM(pretrained=PATHS["receiver"], device="cpu", attn_implementation="eager", dtype="bfloat16")
    assert lm.channel.answers.model.config._attn_implementation == "eager"
    assert str(lm.channel.answers.dtype) == "torch.bfloat16"
    assert setup_of(SINGLE, {"receiver": "r", "prefix_token_id": "3"}).reading.start == 3


def test_the_results_of_lm_eval_say_how_prompts_were_read() -> None:
    told = single().get_model_info()["prompts"]
    assert told["seam"].startswith("as lm-eval's hf")
    assert (told["enable_thinking"], told["enable_thinking, receiver"]) == (
        "not passed",
        "no effect on this chat template",
    )
    assert "enable_thinking, sharer 0" in fused().get_model_info()["prompts"]
