"""The task files follow from the table, load in lm-eval in both forms and render the paper's prompt."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks import generate, lm_eval_functions, registry
from harness.benchmarks.definitions import BENCHMARKS
from harness.benchmarks.sources import DATASETS_DIR_VARIABLE
from harness.errors import RunError, UserError
from harness.paths import TASKS
from tests.support.scored import text_scores
from tests.support.task_rows import Write, listed, redux

PROMPT = """Accurately answer the following question:

Which one freezes first?

Choices:
A. tea
B. rain
C. oil
D. sand


Instructions:
- Carefully read the question and all options.
- Select the single most correct answer.
- Respond ONLY in the following format: "The correct answer is A/B/C/D".
- Do not include any explanations, additional text, or punctuation besides the answer.

The correct answer is"""

needs_data = pytest.mark.skipif(
    not os.environ.get(DATASETS_DIR_VARIABLE), reason=f"{DATASETS_DIR_VARIABLE} names no local copies"
)


def document(**changes: Any) -> dict[str, Any]:
    return {"choices": ["tea", "rain", "oil", "sand"], "labels": list("ABCD"), "key": "B", **changes}


def test_generated_files_are_the_committed_ones() -> None:
    files = generate.planned_files()
    assert generate.stale_files(files) == []
    for path, text in files.items():
        assert (TASKS / path).read_bytes() == text.encode(), path


def test_names_are_unique_and_every_form_is_there() -> None:
    names = [name for name, _, _ in registry._entries()]
    assert len(names) == len(set(names))
    known = registry.available_tasks()
    for name, benchmark in BENCHMARKS.items():
        for form in ("", "_letters"):
            assert known[name + form] == ("group" if benchmark.subjects else "task")
            assert name + form in registry.headline_names()
    assert known["mmlu_redux_stem"] == "group"
    assert "mmlu_redux_stem" not in registry.headline_names()


def test_lm_eval_sees_the_same_names() -> None:
    manager = registry.task_manager()
    assert manager.all_tasks == list(registry.available_tasks())
    assert manager.all_groups == [name for name, kind in registry.available_tasks().items() if kind == "group"]


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from harness.benchmarks import registry; registry.available_tasks();"
        "print([m for m in ('lm_eval', 'torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TASKS.parent)
    assert done.stdout.strip() == "[]"


def test_the_prompt_is_the_papers_byte_for_byte(write: Write) -> None:
    write("allenai/openbookqa/main/test", [listed()])
    for task in registry.load(["openbookqa", "openbookqa_letters"]):
        assert task.doc_to_text(task.eval_docs[0]) == PROMPT


def test_braces_in_a_question_are_text() -> None:
    text = lm_eval_functions.doc_to_text(document(question="{question} {0}"))
    assert "\n{question} {0}\n" in text


def test_the_generate_form(write: Write) -> None:
    write("allenai/openbookqa/main/test", [listed("D")])
    (task,) = registry.load(["openbookqa"])
    turns: list[Any] = []
    task.fewshot_context(
        task.eval_docs[0], 0, apply_chat_template=True, chat_template=lambda history, **_: turns.append(history)
    )
    assert turns == [[{"role": "user", "content": PROMPT}]]
    request = task.construct_requests(task.eval_docs[0], "prompt")
    assert request.args == (
        "prompt",
        {"until": [], "do_sample": False, "max_gen_toks": 64, "repetition_penalty": 1.0},
    )
    assert task.doc_to_target(task.eval_docs[0]) == "D"
    assert task.VERSION == 1


def test_the_letters_form(write: Write) -> None:
    write("allenai/openbookqa/main/test", [listed("D")])
    (task,) = registry.load(["openbookqa_letters"])
    turns: list[Any] = []
    task.fewshot_context(
        task.eval_docs[0],
        0,
        apply_chat_template=True,
        chat_template=lambda history, **named: turns.append((history, named)),
        gen_prefix=task.doc_to_prefix(task.eval_docs[0]),
    )
    (history, named) = turns[0]
    assert [turn["content"] for turn in history] == [PROMPT, "The correct answer is"]
    assert named == {"add_generation_prompt": False}
    requests = task.construct_requests(task.eval_docs[0], "prompt", apply_chat_template=True)
    assert [request.args for request in requests] == [("prompt", f" {letter}") for letter in "ABCD"]
    assert task.process_results(task.eval_docs[0], [(-4.0, False), (-3.0, False), (-2.0, False), (-1.0, True)]) == {
        "acc": 1.0
    }


def test_groups_are_flattened_in_order_and_loaded_once(write: Write) -> None:
    for subjects in BENCHMARKS["mmlu_redux"].subjects.values():
        for subject in subjects:
            write(f"edinburgh-dawg/mmlu-redux-2.0/{subject}/test", [redux()])
    everything = [task.task_name for task in registry.load(["mmlu_redux"])]
    assert len(everything) == 57
    assert everything[0] == "mmlu_redux_abstract_algebra"
    assert everything[-1] == "mmlu_redux_virology"
    chosen = [task.task_name for task in registry.load(["mmlu_redux_virology", "mmlu_redux_other"])]
    assert chosen[0] == "mmlu_redux_virology"
    assert len(chosen) == 13


@pytest.mark.parametrize("name", ["tasks/openbookqa/openbookqa.yaml", "a\\b", "./openbookqa"])
def test_paths_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="by its name, not by a path"):
        registry.load([name])


def test_unknown_names_suggest_a_near_one() -> None:
    with pytest.raises(UserError, match="Did you mean 'mmlu_redux_anatomy'"):
        registry.load(["mmlu_redux_anatomi"])


def test_process_text_reports_both_parsers() -> None:
    assert text_scores(document(key="C"), "The correct answer is Carbon dioxide.") == {
        "acc": 1.0,
        "acc_strict": 0.0,
        "invalid": 0.0,
        "parsers_disagree": 1.0,
    }


def test_process_letters_refuses_nan() -> None:
    with pytest.raises(RunError, match="not a finite number"):
        lm_eval_functions.process_letters(document(), [(math.nan, False)] * 4)


def test_lm_eval_runs_the_task_by_include_path(write: Write) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.dummy import DummyLM
    from lm_eval.tasks import TaskManager

    class OfflineLM(DummyLM):
        tokenizer = None  # the dummy's own would be fetched from the hub

    write("allenai/openbookqa/main/test", [listed("ABCD"[number % 4], number) for number in range(6)])
    results = simple_evaluate(
        model=OfflineLM(),
        tasks=["openbookqa", "openbookqa_letters"],
        task_manager=TaskManager(include_path=str(TASKS), include_defaults=False),
        limit=5,
        bootstrap_iters=0,
    )
    scores = results["results"]
    assert scores["openbookqa"]["sample_len"] == 5
    assert scores["openbookqa"]["invalid,paper"] == scores["openbookqa"]["invalid,strict"] == 1.0
    assert 0.0 <= scores["openbookqa_letters"]["acc,none"] <= 1.0


def test_canonical_files(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {**document(question="?"), "id": f"q{number}", "subject": "s", "known_by": half}
        for number, half in enumerate(["receiver", "sharer"])
    ]
    path = write("world/test", rows)
    monkeypatch.setattr(lm_eval_functions, "TASKS", path.parent)
    loaded = lm_eval_functions.load_canonical(canonical_file="test.jsonl", where={"known_by": "sharer"}, version=1)
    assert [(row["id"], row["known_by"], row["category"]) for row in loaded["test"]] == [("q1", "sharer", "")]
    with pytest.raises(UserError, match="No row of"):
        lm_eval_functions.load_canonical(canonical_file="test.jsonl", where={"known_by": "nobody"})


@needs_data
@pytest.mark.parametrize("name", ["openbookqa", "arc_challenge", "mmlu_redux", "mmlu_redux_ok", "ceval_val"])
def test_counts_of_the_real_data(name: str) -> None:
    tasks = registry.load([name])
    assert sum(len(task.eval_docs) for task in tasks) == BENCHMARKS[name].rows
    identities = [row["id"] for task in tasks for row in task.eval_docs]
    assert len(set(identities)) == len(identities)


@needs_data
def test_ceval_without_its_test_split_says_so() -> None:
    root = Path(os.environ[DATASETS_DIR_VARIABLE])
    if list(root.glob("ceval/ceval-exam/*/test.jsonl")):
        pytest.skip("the local copies have the test split")
    with pytest.raises(UserError, match="No split 'test'"):
        registry.load(["ceval"])
