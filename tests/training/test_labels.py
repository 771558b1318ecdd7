"""What is learned is the whole answer, as the chat template writes it, up to the end of the turn."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.channels.c2c import CacheToCache, Link
from harness.inference.generate import score
from harness.inference.types import CallStats, Query
from harness.models.chat import Conversation, Turn, with_continuations
from harness.models.loading import wrap
from harness.training.dataloader import lay_out_lesson, response_ids
from harness.training.dataset import Example, LeftOut, Reason, read_chat
from harness.training.lora import response_loss
from harness.training.objective import GraphChannel, TrainedLink, summed_loss
from tests.support.chat_templates import CHATML, SPACED, STRICT, TOOLS, merging_tokenizer
from tests.support.tiny import FOREIGN, random_config, random_lm
from tests.support.training_runs import as_float64, trained

ASKED = Conversation((Turn("user", "Hello?"),))
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}


def merging_lm(template=CHATML, kind="qwen3"):
    torch.manual_seed(1)
    words = merging_tokenizer(template)
    return wrap(AutoModelForCausalLM.from_config(random_config(kind, words)), words)


@pytest.fixture(scope="module")
def lm():
    return merging_lm()


def templated(lm, template):
    lm.tokenizer.chat_template = template
    return lm


def learned(lm, response, conversation=ASKED):
    return lm.tokenizer.decode(response_ids(lm, conversation, response))


@pytest.mark.parametrize("answer", ["B", "blue", "Hello world", "B blue. A", "\U0001f30a"])
def test_nothing_of_an_answer_is_lost_behind_a_template_that_ends_in_a_space(lm, answer):
    assert learned(templated(lm, SPACED), answer).strip() == f"{answer}<|im_end|>"


@pytest.mark.parametrize("answer", ["\nHello world", "\n\nblue", "\n blue", " blue", "\tA", "blue\n\n", "A\n"])
def test_nothing_of_an_answer_is_lost_behind_a_template_that_ends_in_a_line_break(lm, answer):
    found = learned(templated(lm, CHATML), answer)
    assert found.lstrip() == f"{answer.lstrip()}<|im_end|>"
    assert len(found) - len(found.lstrip()) >= len(answer) - len(answer.lstrip())


def test_an_answer_that_would_end_in_its_middle_is_refused(lm):
    with pytest.raises(LeftOut, match="labels decode to 'Hello<|im_end|>', which is not its response") as refusal:
        learned(templated(lm, CHATML), "Hello<|im_end|> world")
    assert refusal.value.reason is Reason.LABELS


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages if m['role'] != 'assistant' %}{{ m['content'] }}\n{% endfor %}",
        CHATML.replace("m['content']", "m['content'][:20]"),
    ],
)
def test_an_answer_that_the_template_loses_is_refused(lm, template):
    with pytest.raises(LeftOut, match="is not its response"):
        learned(templated(lm, template), "The answer is written in many words")


def test_a_turn_that_no_special_token_ends_is_ended_by_the_end_token(lm):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n\n{% endfor %}"
    with_prompt = template + "{% if add_generation_prompt %}assistant:{% endif %}"
    assert learned(templated(lm, with_prompt), "blue") == " blue<|im_end|>"
    assert learned(templated(lm, template + "assistant:"), "blue") == " blue<|im_end|>"


def test_the_end_that_a_template_writes_is_learned_where_the_model_stops_elsewhere():
    words = merging_tokenizer()
    words.eos_token = "<|endoftext|>"
    other = wrap(AutoModelForCausalLM.from_config(random_config("qwen3", words)), words)
    assert learned(other, "blue") == "blue<|im_end|>"


def example(*turns, **more):
    return read_chat({"messages": list(turns), **more}, "Row 0")


def user(text="Hello?"):
    return {"role": "user", "content": text}


def assistant(text, **parts):
    return {"role": "assistant", "content": text, **parts}


def taught(lm, one):
    found = lay_out_lesson(GraphChannel(lm, ()).planner, one, 500)
    read = found.ids[0][: found.prompt_length]
    return lm.tokenizer.decode(read), lm.tokenizer.decode(found.response)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (assistant("blue"), "blue"),
        (assistant("blue", reasoning_content="so"), "<think>\nso\n</think>\n\nblue"),
        (assistant("<think>\nso\n</think>\n\nblue"), "<think>\nso\n</think>\n\nblue"),
        (assistant("", tool_calls=[CALL]), "<call>look sky</call>"),
        (assistant(None, tool_calls=[CALL]), "<call>look sky</call>"),
        (assistant("I look.", tool_calls=[CALL]), "I look.<call>look sky</call>"),
    ],
)
def test_parts_are_learned_as_the_template_writes_them(lm, answer, expected):
    prompt, response = taught(templated(lm, TOOLS), example(user(), answer))
    assert response == f"{expected}<|im_end|>"
    thinks = expected.startswith("<think>")
    assert prompt.endswith("assistant\n" if thinks else "assistant\n<think>\n\n</think>\n\n")


def test_calls_results_and_tools_are_read(lm):
    turns = (user(), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "grey"}, assistant("It is grey."))
    prompt, response = taught(templated(lm, TOOLS), example(*turns, tools=[{"name": "look"}]))
    assert all(part in prompt for part in ('{"name": "look"}', "<call>look sky</call>", "tool\ngrey"))
    assert response == "It is grey.<|im_end|>"


@pytest.mark.parametrize(
    ("turns", "more", "lost"),
    [
        ((user(), assistant("", tool_calls=[CALL])), {}, "tool_calls"),
        (
            (user(), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "x"}, assistant("y")),
            {},
            "tool_calls",
        ),
        ((user(), assistant("blue", reasoning_content="so")), {}, "reasoning_content"),
        ((user(), assistant("blue")), {"tools": [{"name": "look"}]}, "tools"),
    ],
)
def test_parts_that_the_template_does_not_write_are_refused(lm, turns, more, lost):
    with pytest.raises(LeftOut, match=f"does not write its {lost}") as refusal:
        taught(templated(lm, CHATML), example(*turns, **more))
    assert refusal.value.reason is Reason.PARTS


def test_a_system_turn_that_the_template_drops_is_refused(lm):
    template = CHATML.replace("in messages", "in messages if m['role'] != 'system'")
    with pytest.raises(LeftOut, match="does not write its system turn"):
        taught(templated(lm, template), example({"role": "system", "content": "Be brief."}, user(), assistant("blue")))


def test_a_row_that_the_template_refuses_is_left_out_with_its_reason(lm):
    row = example({"role": "system", "content": "Be brief."}, user(), assistant("blue"))
    with pytest.raises(LeftOut, match="refuses the conversation: no system") as refusal:
        taught(templated(lm, STRICT), row)
    assert refusal.value.reason is Reason.TEMPLATE


def test_an_opening_that_the_template_never_writes_before_answers_gives_way_to_reasoning(lm):
    opening = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    prompt, response = taught(templated(lm, opening), example(user(), assistant("blue")))
    assert (prompt[-18:], response) == ("assistant\n<think>\n", "blue<|im_end|>")
    shut = TOOLS.replace("enable_thinking is defined and not enable_thinking", "true")
    prompt, response = taught(templated(lm, shut), example(user(), assistant("blue", reasoning_content="so")))
    assert prompt + response == (
        "<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n<think>\nso\n</think>\n\nblue<|im_end|>"
    )


def pair(template, words):
    receiver = as_float64(merging_lm(template))
    sharer = as_float64(random_lm("llama", seed=2, words=words) if words else merging_lm(template, "llama"))
    return receiver, sharer


@pytest.mark.parametrize("words", ["", FOREIGN])
@pytest.mark.parametrize(("template", "answer"), [(SPACED, "blue or red"), (CHATML, "\nHello world")])
def test_the_loss_across_the_seam_is_the_loglikelihood_of_a_run(template, answer, words):
    receiver, sharer = pair(template, words)
    channel = GraphChannel(receiver, (TrainedLink(sharer, trained(receiver, sharer, double=True)),))
    found = lay_out_lesson(channel.planner, Example(ASKED, answer), 500)
    asked, work = [Query(with_continuations(ASKED, f"{answer}<|im_end|>"))], CallStats()
    plain = CacheToCache(receiver, tuple(Link(link.sharer, link.fuser) for link in channel.links))
    with torch.inference_mode():
        context = plain.receive(asked, plain.send(asked, work), work)
        assert context.options == ((found.response,),)
        expected = -score(context, context.options, work)[0][0].loglikelihood
    assert float(summed_loss(channel, [found]).detach()) == pytest.approx(expected, rel=1e-6)


def test_an_adapter_learns_the_same_tokens_across_the_seam():
    receiver = as_float64(merging_lm(SPACED))
    found = lay_out_lesson(GraphChannel(receiver, ()).planner, Example(ASKED, "blue"), 500)
    ids = torch.tensor([found.ids[0] + found.response[-1:]])
    with torch.no_grad():
        logits = receiver.model(ids).logits[0, :-1].log_softmax(-1)
        expected = -logits.gather(1, ids[0, 1:, None])[-len(found.response) :].sum()
    assert receiver.tokenizer.decode(found.response) == " blue<|im_end|>"
    assert float(response_loss(receiver, [found]).detach()) == pytest.approx(float(expected), rel=1e-6)
