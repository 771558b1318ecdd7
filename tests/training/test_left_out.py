"""Rows that cannot be learned from are left out, counted by reason, and never end a run."""

import json

import pytest
import torch

from harness.errors import RunError, UserError
from harness.training.main import train
from tests.support.chat_templates import STRICT
from tests.support.training_runs import logged, recipe, stopping_at, weights

BRIEF = {"role": "system", "content": "Be brief."}
ASKED = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because so it is."}]


@pytest.fixture
def mixed(folder, tmp_path):
    """Sixteen rows of which a template refuses one and three others cannot be learned from."""
    rows = [{"messages": ASKED} for _ in range(12)]
    rows[5:5] = [
        {"messages": [BRIEF, *ASKED]},
        {"messages": ASKED[:1]},
        {"messages": [{"role": "narrator", "content": "Once."}, *ASKED]},
        {"messages": [ASKED[0], {"role": "assistant", "content": "So<|im_end|> it is."}]},
    ]
    data, template = tmp_path / "rows.json", tmp_path / "strict.jinja"
    data.write_text(json.dumps(rows))
    template.write_text(STRICT)
    single = {"global_batch": 1, "micro_batch": 1, "steps": 16, "save_every": 1, "dropout": 0.0}
    return {**single, "data": str(data), "receiver_chat_template": str(template)}


def last_counts(out):
    line = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()][-1]
    return {name: value for name, value in line.items() if name.startswith("left_out/")}


def test_rows_left_out_are_counted_by_reason_and_the_run_ends_well(folder, tmp_path, mixed, capsys):
    train(recipe(folder, tmp_path / "out", **mixed, progress=True))
    counts = {"NO_ANSWER": 1, "ROLE": 1, "TEMPLATE": 1, "LABELS": 1}
    assert last_counts(tmp_path / "out") == {f"left_out/{name}": count for name, count in counts.items()}
    assert logged(tmp_path / "out", "skipped")[-1] == 4
    said = capsys.readouterr().err.splitlines()
    (refused,) = [line for line in said if line.startswith("Left out: ") and "no system" in line]
    assert refused.startswith("Left out: Row 5 of the training data: The chat template of")
    assert any(line.startswith("Left out: Row 8 of the training data: its labels decode to") for line in said)
    summary = "4 rows left out: 1 without an answer to learn, 1 with a role that is not known, 1 refused by a chat"
    assert said[-3].startswith(summary)
    assert said[-2] == f"Written: {tmp_path / 'out' / 'fuser'}"
    assert said[-1].endswith(f"--fuser {tmp_path / 'out' / 'fuser'} --tasks TASK")


def test_counts_and_bits_are_the_same_wherever_a_run_stopped(folder, tmp_path, mixed):
    train(recipe(folder, tmp_path / "whole", **mixed))
    for stop in (3, 9, 15):
        out = tmp_path / f"stopped{stop}"
        with stopping_at(stop):
            train(recipe(folder, out, **mixed))
        train(recipe(folder, out, **mixed, resume=True))
        assert last_counts(out) == last_counts(tmp_path / "whole")
        assert logged(out) == logged(tmp_path / "whole")
        assert all(torch.equal(value, weights(out)[name]) for name, value in weights(tmp_path / "whole").items())


def test_a_summary_is_written_without_progress_too(folder, tmp_path, mixed, capsys):
    train(recipe(folder, tmp_path / "out", **mixed))
    assert capsys.readouterr().err.splitlines()[-1].startswith("4 rows left out: ")


def test_held_out_rows_that_are_left_out_are_counted(folder, tmp_path, mixed):
    train(recipe(folder, tmp_path / "out", **{**mixed, "steps": 2}, held_out_rows=11))
    assert logged(tmp_path / "out", "held_out_left_out") == [4]
    assert len(logged(tmp_path / "out", "held_out_loss")) == 1


def test_a_template_that_refuses_everything_is_refused_at_once(folder, tmp_path, mixed):
    data = tmp_path / "system.jsonl"
    data.write_text(3 * (json.dumps({"messages": [BRIEF, *ASKED]}) + "\n"))
    with pytest.raises(UserError, match=r"refuses all of 3 rows that were tried. Row 0 .*: no system"):
        train(recipe(folder, tmp_path / "out", **{**mixed, "data": str(data)}))


def test_as_released_drops_system_turns_and_leaves_out_what_would_be_cut(folder, tmp_path, mixed):
    long = {"messages": [ASKED[0], {"role": "assistant", "content": "so it is " * 40}]}
    data = tmp_path / "released.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in [{"messages": [BRIEF, *ASKED]}, long]))
    short = {**mixed, "data": str(data), "steps": 2, "max_length": 60}
    train(recipe(folder, tmp_path / "ours", **short))
    assert last_counts(tmp_path / "ours") == {"left_out/TEMPLATE": 1}
    train(recipe(folder, tmp_path / "released", **short, as_released=True))
    assert last_counts(tmp_path / "released") == {"left_out/WHOLE_TOO_LONG": 1}
    with pytest.raises(UserError, match="trained with another as_released"):
        train(recipe(folder, tmp_path / "released", **short, resume=True))


def test_a_run_that_nothing_can_be_learned_from_names_the_reasons(folder, tmp_path, mixed):
    data = tmp_path / "empty.jsonl"
    data.write_text(2 * (json.dumps({"messages": ASKED[:1]}) + "\n"))
    with pytest.raises(RunError, match="None of 2 rows .*2 rows left out: 2 without an answer to learn"):
        train(recipe(folder, tmp_path / "out", **{**mixed, "data": str(data)}))
