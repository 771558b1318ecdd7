import json

import pytest

from harness.errors import UserError
from harness.models.chat import Turn
from harness.paths import TASKS
from harness.training.dataset import Corpus
from harness.training.sources import read_corpus
from tests.support.training_runs import recipe


def corpus(*rows, wording=None):
    return Corpus(rows, "", wording)


def test_both_spellings_of_a_chat_are_read():
    ours = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    theirs = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    assert corpus(ours)[0] == corpus(theirs)[0]
    assert corpus(ours)[0].response == "b"


def test_the_last_answer_is_learned_and_what_follows_is_dropped():
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    found = corpus({"messages": [{"role": role, "content": str(n)} for n, role in enumerate(roles)]})[0]
    assert found.response == "4"
    assert [turn.content for turn in found.conversation.turns] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("roles", [[], ["user"], ["assistant"], ["system", "user"]])
def test_a_chat_without_an_answered_question_teaches_nothing(roles):
    assert corpus({"messages": [{"role": role, "content": "x"} for role in roles]})[0].response == ""


def test_question_documents_take_their_wording_from_a_task():
    row = {"question": "2 + 2?", "key": "B"}
    found = corpus(row, wording=lambda document: f"Please: {document['question']}")[0]
    assert found.conversation.turns == (Turn("user", "Please: 2 + 2?"),)
    assert found.response == "B"


def test_a_question_whose_key_is_secret_teaches_nothing():
    assert corpus({"question": "x", "key": None}, wording=lambda document: "x")[0].response == ""


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "x", "key": 2}, "Row 0 .* has the key 2; give one of its labels"),
        ({"question": "x", "key": "E", "labels": ["A", "B"]}, "Row 0 .* has the key 'E'"),
        ({"question": "x", "key": "A"}, r"Row 0 .* cannot be asked as --prompt-of says \(KeyError\('choices'\)\)"),
        ({"question": "x", "key": "A", "choices": ["\ud800"]}, r"Row 0 .* holds '\\ud800', which is half a character"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused_by_their_number(row, said):
    with pytest.raises(UserError, match=said):
        corpus(row, wording=lambda document: "".join(document["choices"]))[0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, "Row 0 .* has the fields text"),
        ({"question": "x", "key": "A"}, "--prompt-of TASK"),
        ({"messages": [{"role": "user"}]}, "Row 0 .* is no chat"),
        ({"messages": [{"role": "user", "content": [1]}]}, "Row 0 .* is no chat"),
        ({"messages": 3}, "Row 0 .* is no chat"),
    ],
)
def test_other_rows_are_refused_by_their_number(row, said):
    with pytest.raises(UserError, match=said):
        corpus(row)[0]


def test_a_local_file_is_read_up_to_the_rows_asked_for(tmp_path):
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": []}) + "\n" for _ in range(5)))
    whole, part = read_corpus(recipe(tmp_path, tmp_path)), read_corpus(recipe(tmp_path, tmp_path, max_rows=3))
    assert (len(whole), len(part)) == (5, 3)
    assert whole.fingerprint == part.fingerprint
    with pytest.raises(UserError, match="none is left"):
        read_corpus(recipe(tmp_path, tmp_path, held_out_rows=5))


def test_data_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(UserError, match="nobody/nothing"):
        read_corpus(recipe(tmp_path, tmp_path, data="nobody/nothing"))
    with pytest.raises(UserError, match=r"missing\.jsonl"):
        read_corpus(recipe(tmp_path, tmp_path, data=str(tmp_path / "missing.jsonl")))


def test_a_row_with_a_view_of_the_sharer_s_own_is_refused_in_a_sentence():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(UserError, match="Row 0 .* has 'sharer_context', but in training"):
        corpus({"messages": turns, "sharer_context": "secret"})[0]


def test_rows_that_the_task_asks_are_counted(tmp_path):
    tested = (TASKS / "relay" / "test.jsonl").read_text().splitlines()[:3]
    other = json.dumps({**json.loads(tested[0]), "question": "near nobody which metal ?"})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*tested, other]))
    asked = recipe(tmp_path, tmp_path / "out", data=str(path), prompt_of="relay_one", held_out_rows=0)
    assert read_corpus(asked).tested == 3
    assert read_corpus(asked.model_copy(update={"prompt_of": "factworld_sharer_knows"})).tested == 0
