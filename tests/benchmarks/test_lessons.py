"""Chats to train on come from splits that are not tested, say the task's own words and favour no letter."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from harness.benchmarks import training_data
from harness.benchmarks.sources import DATASETS_DIR_VARIABLE
from harness.benchmarks.training_data import NEAR, Questions
from harness.errors import UserError
from harness.paths import ROOT
from tests.support.scored import letter_scores


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.setenv(DATASETS_DIR_VARIABLE, str(tmp_path))
    folder = tmp_path / "allenai" / "openbookqa" / "main"
    folder.mkdir(parents=True)
    made = [
        {
            "id": f"7-{i}",
            "question_stem": f"Stem {i}",
            "choices": {"text": [f"wrong {i}", f"right {i}", f"poor {i}", f"bad {i}"], "label": list("ABCD")},
            "answerKey": "B",
        }
        for i in range(200)
    ]
    options = {"text": ["green", "blue", "red", "grey"], "label": list("ABCD")}
    tested = {**made[0], "id": "tested", "question_stem": "Tested long ago by somebody", "choices": options}
    choices = {"text": options["text"][::-1], "label": list("ABCD")}
    leaked = {**tested, "id": "leaked", "choices": choices, "answerKey": "C"}
    leaked["question_stem"] = " tested LONG ago by somebody"
    reworded = {**tested, "id": "reworded", "question_stem": "Tested quite long ago, by somebody"}
    for name, rows in (("train", [leaked, reworded, *made]), ("test", [tested])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def test_the_answer_follows_its_option_and_no_letter_is_favoured(rows):
    chats = training_data.chats(["openbookqa"], "train", seed=0)
    keys = []
    for row, chat in zip(rows, chats, strict=True):
        asked, answered = (turn["content"] for turn in chat["messages"])
        key = answered[-1]
        assert f"{key}. right {row['id'].removeprefix('7-')}\n" in asked
        assert letter_scores(answered, key)["acc_strict"] == 1.0
        keys.append(key)
    assert min(Counter(keys).values()) > 30


def test_order_is_a_matter_of_the_seed_and_the_question_alone(rows):
    chats = training_data.chats(["openbookqa"], "train", seed=0)
    assert training_data.chats(["openbookqa"], "train", seed=0) == chats
    assert training_data.chats(["openbookqa"], "train", seed=1) != chats
    assert all(
        chat["messages"][1]["content"][-1] == "B" for chat in training_data.chats(["openbookqa"], "train", seed=None)
    )


@pytest.mark.parametrize(("name", "split"), [("openbookqa", "test"), ("ceval", "val"), ("openbokqa", "train")])
def test_what_is_tested_or_unknown_is_refused(rows, name, split):
    with pytest.raises(UserError, match=name):
        training_data.chats([name], split, seed=0)


def test_the_command_refuses_in_a_sentence(tmp_path):
    command = [sys.executable, "-m", "harness.benchmarks.training_data", str(tmp_path / "out"), "openbokqa"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert run.stderr.startswith("Error: Unknown benchmark 'openbokqa'")


def test_the_command_writes_the_same_bytes_twice(rows, tmp_path, capsys):
    for name in ("one", "two"):
        training_data.main([str(tmp_path / name), "openbookqa", "--splits", "train"])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert "200 chats" in capsys.readouterr().out


def test_questions_that_differ_in_a_few_words_count_as_one():
    def question(text, *choices):
        return {"question": text, "choices": list(choices)}

    tested = Questions([question("What do most plants need in order to grow?", "sun light", "stones", "air", "salt")])
    near = question("What do plants need, in order to grow?", "salt", "stones", "sun light", "air")
    other = question("What do most plants give off in order to live?", "oxygen", "iron", "helium", "sulphur")
    assert tested.contain(near)
    assert not tested.contain(other)
    assert tested.nearest(near) > NEAR > tested.nearest(other) > 0
    assert not tested.contain(question("?!", "-", "+"))


def test_what_is_left_out_is_counted(rows, caplog):
    training_data.chats(["openbookqa"], "train", seed=0)
    assert "openbookqa: 2 of 202 questions in split 'train' are tested as well" in caplog.text
