"""Chats in the forms in which they are published are read as they were meant, or left out with a reason."""

import json

import pytest

from harness.errors import UserError
from harness.models.chat import Turn
from harness.training.dataset import Corpus, LeftOut, Reason, read_chat
from harness.training.sources import read_corpus
from tests.support.training_runs import recipe

WHERE = "Row 0 of the training data"


def share(*turns, **more):
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **more}


def say(*turns, **more):
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


def read(row):
    found = read_chat(row, WHERE)
    return [(turn.role, turn.content) for turn in found.conversation.turns], found.response


@pytest.mark.parametrize("name", ["assistant", "gpt", "chatgpt", "model", "bot", "GPT", " Assistant "])
@pytest.mark.parametrize("asker", ["user", "human", "Human"])
@pytest.mark.parametrize("form", [share, say])
def test_roles_are_read_under_every_name(form, asker, name):
    assert read(form((asker, "a"), (name, "b"))) == ([("user", "a")], "b")


def test_the_last_answer_is_learned_by_whatever_name():
    row = share(("human", "a"), ("gpt", "b"), ("human", "c"), ("chatgpt", "d"))
    assert read(row) == ([("user", "a"), ("assistant", "b"), ("user", "c")], "d")


def test_other_spellings_of_the_fields_are_read():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert read({"conversations": turns}) == read({"conversation": turns}) == ([("user", "a")], "b")
    assert read({**share(("human", "a"), ("gpt", "b")), "messages": []}) == ([("user", "a")], "b")
    assert read({**share(("human", "a"), ("gpt", "b")), "messages": None}) == ([("user", "a")], "b")


@pytest.mark.parametrize("field", ["system", "system_prompt", "system_message", "systemPrompt"])
def test_a_system_prompt_beside_the_turns_comes_first(field):
    row = share(("human", "a"), ("gpt", "b"))
    assert read({**row, field: "Be brief."}) == ([("system", "Be brief."), ("user", "a")], "b")
    assert read({**row, field: ""}) == read({**row, field: None}) == ([("user", "a")], "b")
    same = share(("system", "Be brief. "), ("human", "a"), ("gpt", "b"), **{field: "Be brief."})
    assert read(same) == ([("system", "Be brief. "), ("user", "a")], "b")


def test_a_turn_of_no_weight_is_read_and_not_learned():
    turns = [("user", "a", None), ("assistant", "b", 1), ("user", "c", 0), ("assistant", "d", 0)]
    row = {"messages": [{"role": role, "content": text, "weight": weight} for role, text, weight in turns]}
    assert read(row) == ([("user", "a")], "b")
    row["messages"] += [{"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}]
    assert read(row) == ([(role, text) for role, text, _ in turns] + [("user", "e")], "f")
    row["messages"] = [turn for turn in row["messages"] if turn.get("weight") != 1 and turn["content"] not in "ef"]
    assert read(row)[1] == ""
    row["messages"] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": False}]
    assert read(row)[1] == ""


def test_content_in_parts_is_joined():
    parts = [{"type": "text", "text": "a", "image_url": None}, {"text": "b"}, "c"]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "d"}]}
    assert read(row) == ([("user", "abc")], "d")


CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [CALL], "function_call": None},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": '{"at": "sky"}'}]},
        {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{"at": "sky"}'}},
        {"from": "function_call", "value": '{"name": "look", "arguments": {"at": "sky"}}'},
        {"from": "function_call", "value": '[{"name": "look", "parameters": {"at": "sky"}}]'},
    ],
)
@pytest.mark.parametrize("result", [("role", "tool", "content"), ("from", "observation", "value")])
def test_tool_calls_reach_the_template_in_one_form(turn, result):
    by, role, text = result
    turns = [{"role": "user", "content": "a"}, turn, {by: role, text: "grey"}, {"role": "assistant", "content": "b"}]
    found = read_chat({"messages": turns}, WHERE)
    assert found.conversation.messages == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "grey"},
    ]
    last = read_chat({"messages": turns[:2]}, WHERE)
    assert (last.answer.message["tool_calls"], last.answered) == ([CALL], True)


def test_tools_and_names_of_results_are_kept():
    tools = [{"type": "function", "function": {"name": "look"}}]
    turns = [{"role": "user", "content": "a"}, {"role": "tool", "content": "x", "tool_call_id": "7", "name": "look"}]
    row = {"messages": [*turns, {"role": "assistant", "content": "b", "id": 3}], "tools": json.dumps(tools)}
    found = read_chat(row, WHERE)
    assert found.conversation.template_arguments["tools"] == tools
    assert found.conversation.messages[1] == {"role": "tool", "content": "x", "tool_call_id": "7", "name": "look"}
    assert found.answer == Turn("assistant", "b")


@pytest.mark.parametrize(
    ("row", "reason", "said"),
    [
        (say(("user", "a"), ("narrator", "b")), Reason.ROLE, "a turn of the role 'narrator'; rename it"),
        (say(("user", None), ("assistant", "b")), Reason.CONTENT, "of the role 'user' without content"),
        (say(("user", [{"type": "image_url"}]), ("assistant", "b")), Reason.CONTENT, "content of the type 'image_url'"),
        (say(("user", "a"), ("assistant", "b"), images=["x.png"]), Reason.CONTENT, "comes with images"),
        (share(("human", "a"), ("function_call", "{look}")), Reason.CALL, "the tool call '{look}'"),
        (say(("user", "a"), ("assistant", "b"), tools="look"), Reason.CALL, "`tools` that are no list"),
        (share(("system", "x"), ("human", "a"), ("gpt", "b"), system="y"), Reason.SYSTEM, "keep one"),
        (share(("human", "a"), ("gpt", "b"), system=["y"]), Reason.CONTENT, "a system prompt that is no text"),
        (say(("user", "a\ud800"), ("assistant", "b")), Reason.CHARACTER, "half a character"),
    ],
)
def test_what_cannot_be_read_as_meant_is_left_out_with_its_reason(row, reason, said):
    with pytest.raises(LeftOut, match=said) as refusal:
        Corpus([row], "")[0]
    assert refusal.value.reason is reason
    assert str(refusal.value).startswith(WHERE)


@pytest.mark.parametrize(
    ("turn", "reason", "said"),
    [
        ({"role": "assistant", "content": "b", "weight": 1, "loss": False}, Reason.WEIGHT, "weight and loss"),
        ({"role": "assistant", "content": "b", "value": "c"}, Reason.CONTENT, "content and value"),
        ({"role": "assistant", "content": "", "value": "c"}, Reason.CONTENT, "content and value"),
        ({"role": "assistant", "from": "human", "content": "b"}, Reason.ROLE, "role and from"),
    ],
)
def test_two_names_of_one_field_that_contradict_each_other_are_left_out(turn, reason, said):
    with pytest.raises(LeftOut, match=f"{said} contradict") as left:
        read({"messages": [{"role": "user", "content": "a"}, turn]})
    assert left.value.reason is reason
    agreed = {"role": "assistant", "from": "gpt", "content": "b", "value": "b", "weight": 1, "train": True}
    assert read({"messages": [{"role": "user", "content": "a"}, agreed]}) == ([("user", "a")], "b")


def test_functions_beside_the_turns_are_tools():
    function = {"name": "look", "parameters": {}}
    row = say(("user", "a"), ("assistant", "b"))
    tools = [{"type": "function", "function": function}]
    wanted = read_chat({**row, "tools": tools}, WHERE).conversation.tools
    for given in ([function], json.dumps([function])):
        assert read_chat({**row, "functions": given}, WHERE).conversation.tools == wanted == json.dumps(tools)


def test_a_weight_between_is_left_out():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0.5}]
    with pytest.raises(LeftOut, match="the weight 0.5; a turn is learned"):
        read_chat({"messages": turns}, WHERE)


def test_chats_are_read_as_the_released_trainer_does():
    row = share(("system", "x"), ("human", " a\n"), ("gpt", " b "), system="x")
    found = read_chat(row, WHERE, as_released=True)
    assert (found.conversation.turns, found.response) == ((Turn("user", "a"),), " b ")


@pytest.mark.parametrize("opening", ["", "\ufeff", "\n  "])
@pytest.mark.parametrize("indent", [None, 2])
def test_one_json_array_is_read(tmp_path, opening, indent):
    rows = [share(("human", "a"), ("gpt", str(number))) for number in range(3)]
    (tmp_path / "chats.json").write_text(opening + json.dumps(rows, indent=indent), encoding="utf-8")
    found = read_corpus(recipe(tmp_path, tmp_path, data=str(tmp_path / "chats.json")))
    assert [found[number].response for number in range(len(found))] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"messages": []}', "begins with .* but is no JSON array"),
        ('[{"messages": []}, 3]', "Entry 1 of the array in .* must be a JSON object, not int"),
        (json.dumps([say(("user", "a"), ("assistant", "b")), {"text": "x"}]), "Row 1 .* has the fields text"),
    ],
)
def test_a_row_in_no_known_form_is_refused_before_anything_runs(tmp_path, text, said):
    (tmp_path / "chats.json").write_text(text)
    with pytest.raises(UserError, match=said):
        read_corpus(recipe(tmp_path, tmp_path, data=str(tmp_path / "chats.json")))
