"""Whatever can change an answer is named before any answer is looked at."""

from __future__ import annotations

from typing import Any

import pytest

from harness.records.schema import Git, Hardware, ModelInfo
from harness.regression.differences import find_differences, first_line, only_rounding
from tests.support import regression_runs

FACTS: dict[str, Any] = {
    "models": [
        ModelInfo(role="receiver", reference="hub/r", fingerprint="1" * 64),
        ModelInfo(role="sharer", reference="hub/s", fingerprint="2" * 64),
    ],
    "fusers": [{"role": "sharer", "reference": "hub/f", "fingerprint": "3" * 64}],
    "identity_fields": {"prompts": {"t": "p"}, "limit": None, "attention": "sdpa", "weights": ["1", "2"]},
    "git": Git(commit="a" * 40, dirty=False),
    "packages": {"torch": "2.1", "c2c-harness": "0.1"},
    "environment": {"OMP_NUM_THREADS": "1"},
}


def changed(**changes: Any) -> tuple[str, bool]:
    answers = regression_runs.answers(2)
    base, head = regression_runs.run(answers, **FACTS), regression_runs.run(answers, **{**FACTS, **changes})
    found = find_differences(base, head)
    return first_line(found).removeprefix("Differs: "), only_rounding(found)


def fields(**changes: Any) -> dict[str, Any]:
    return {"identity": "b" * 64, "identity_fields": {**FACTS["identity_fields"], **changes}}


def models(role: str) -> list[ModelInfo]:
    return [m.model_copy(update={"fingerprint": "9" * 64}) if m.role == role else m for m in FACTS["models"]]


@pytest.mark.parametrize(
    ("changes", "text", "rounding"),
    [
        ({}, "nothing that the records name.", True),
        ({"models": models("receiver")}, "receiver weights (r 1111111 -> r 9999999).", False),
        ({"models": models("sharer")}, "sharer weights (s 2222222 -> s 9999999).", False),
        ({"models": FACTS["models"][:1]}, "sharer weights (s 2222222 -> none).", False),
        ({"fusers": [{"reference": "f", "fingerprint": "8" * 64}]}, "fuser (f 3333333 -> f 8888888).", False),
        ({"fusers": []}, "fuser (f 3333333 -> none).", False),
        (fields(weights=["1", "3"]), "weights.", False),
        (fields(fuser_weights=["1"]), "fuser.", False),
        (fields(prompts={"t": "q"}), "prompts (prompts).", False),
        (fields(limit=5, seed=3), "config (limit, seed).", False),
        (fields(plugins={"channel kvcomm": "4" * 64}), "plug-in code (channel kvcomm).", False),
        (fields(attention="eager"), "number format or kernel (attention).", True),
        ({"identity": "b" * 64}, "identity (aaaaaaa -> bbbbbbb).", False),
        ({"identity": ""}, "identity (aaaaaaa -> unknown).", False),
        ({"git": Git(commit="b" * 40, dirty=False)}, "code commit (aaaaaaa -> bbbbbbb).", False),
        (
            {"git": Git(commit="a" * 40, dirty=True)},
            "code commit (aaaaaaa -> aaaaaaa with uncommitted changes).",
            False,
        ),
        ({"git": Git()}, "code commit (aaaaaaa -> version 0.1).", False),
        ({"packages": {"torch": "2.2", "c2c-harness": "0.1"}}, "packages (torch 2.1 -> 2.2).", False),
        ({"environment": {}}, "environment (OMP_NUM_THREADS).", True),
        ({"environment": {**FACTS["environment"], "HF_HUB_OFFLINE": "1"}}, "nothing that the records name.", True),
        ({"config": {"batch_size": 1}}, "batches or placement (batch_size).", True),
        ({"config": {}}, "nothing that the records name.", True),
        ({"hardware": regression_runs.OTHER_MACHINE}, "hardware (one -> two).", True),
        ({"hardware": Hardware()}, "hardware (one -> unknown).", True),
    ],
)
def test_what_differs_is_named(changes: dict[str, Any], text: str, rounding: bool) -> None:
    assert changed(**changes) == (text, rounding)


def test_everything_is_in_one_sentence_weights_first() -> None:
    text, _ = changed(models=models("receiver"), hardware=regression_runs.OTHER_MACHINE, git=Git(commit="b" * 40))
    assert [part.split(" (")[0] for part in text.split("; ")] == ["receiver weights", "code commit", "hardware"]


def test_prompts_are_compared_question_by_question_where_both_sides_kept_them() -> None:
    answers = regression_runs.answers(2)
    other = [sample.model_copy(update={"prompt_sha256": "1" * 64}) for sample in answers]
    unknown = [sample.model_copy(update={"prompt_sha256": ""}) for sample in answers]
    base = regression_runs.run(answers)
    assert [d.text for d in find_differences(base, regression_runs.run(other))] == ["prompts (openbookqa)"]
    assert find_differences(base, regression_runs.run(unknown)) == []
