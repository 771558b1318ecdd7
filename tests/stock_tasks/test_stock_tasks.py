"""lm-eval's stock tasks through our models say what they say through its own `hf`, whatever is asked together."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import UserError
from tests.stock_tasks.conftest import FOLDERS, Evaluate

TASKS = tuple(FOLDERS)
QUICK = ("arc_easy", "winogrande", "wikitext", "triviaqa", "squad_completion", "blimp_anaphor_number_agreement")
CHATS = pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])


def answers(found: dict[str, Any], task: str) -> list[Any]:
    """Raw responses by document and request: (loglikelihood, greedy), loglikelihood or text."""
    return [s["resps"] for s in sorted(found["samples"][task], key=lambda s: (s["doc_id"], s["filter"]))]


def numbers(response: Any) -> Any:
    """Strings stay; lm-eval's samples hold numbers as they came."""
    return [numbers(part) for part in response] if isinstance(response, list | tuple) else response


def compare(found: dict[str, Any], expected: dict[str, Any], task: str) -> float:
    """Asserts that responses and metrics are equal and returns the largest difference of a loglikelihood."""
    own, other = numbers(answers(found, task)), numbers(answers(expected, task))
    flat, flat_other = flattened(own), flattened(other)
    assert [type(value) for value in flat] == [type(value) for value in flat_other]
    pairs = list(zip(flat, flat_other, strict=True))
    assert [a for a, _ in pairs if not isinstance(a, float)] == [b for _, b in pairs if not isinstance(b, float)]
    differences = [abs(a - b) for a, b in pairs if isinstance(a, float)]
    assert max(differences, default=0.0) < 1e-4
    metrics, metrics_other = (metrics_of(results, task) for results in (found, expected))
    assert metrics
    assert metrics == pytest.approx(metrics_other, rel=1e-4)
    return max(differences, default=0.0)


def flattened(value: Any) -> list[Any]:
    return [leaf for part in value for leaf in flattened(part)] if isinstance(value, list) else [value]


def metrics_of(found: dict[str, Any], task: str) -> dict[str, float]:
    values = found["results"][task].items()
    return {name: float(value) for name, value in values if isinstance(value, int | float)}


@CHATS
def test_half_of_the_stock_tasks_are_lm_evals(evaluate: Evaluate, chat: bool) -> None:
    found, expected = evaluate("single", 4, QUICK, chat), evaluate("hf", 1, QUICK, chat)
    for task in QUICK:
        compare(found, expected, task)


@pytest.mark.slow
@CHATS
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("task", TASKS)
def test_stock_tasks_are_lm_evals(evaluate: Evaluate, task: str, batch_size: int, chat: bool) -> None:
    found, expected = evaluate("single", batch_size, TASKS, chat), evaluate("hf", 1, TASKS, chat)
    difference = compare(found, expected, task)
    print(f"\n| {task} | {'chat' if chat else 'plain'} | {batch_size} | {difference:.1e} |")


@pytest.mark.slow
@CHATS
@pytest.mark.parametrize("task", [task for task in TASKS if task != "wikitext"])  # hf scores an added BOS as text
def test_stock_tasks_are_lm_evals_where_texts_are_opened_and_chats_end_in_a_blank(
    evaluate: Evaluate, task: str, chat: bool
) -> None:
    found, expected = (evaluate(name, 2, TASKS, chat, "opening") for name in ("single", "hf"))
    compare(found, expected, task)


# What a pair does not answer. A prompt is empty only where no chat template stands around it.
ROLLING, NO_PROMPT, NO_QUESTION = "Rolling loglikelihoods", "requests without a prompt", "bare question"
REFUSED: dict[tuple[str, bool], dict[str, str]] = {
    ("c2c", True): {"wikitext": ROLLING},
    ("c2c", False): {"wikitext": ROLLING, "blimp_anaphor_number_agreement": NO_PROMPT},
    ("t2t", True): {
        "wikitext": ROLLING,
        **dict.fromkeys(("copa", "winogrande", "lambada_openai", "squad_completion", "race"), NO_QUESTION),
        "blimp_anaphor_number_agreement": NO_QUESTION,
    },
}
REFUSED["t2t", False] = {**REFUSED["t2t", True], "blimp_anaphor_number_agreement": NO_PROMPT}
PAIRS = pytest.mark.parametrize("name", ["t2t", "c2c"])


def answered(name: str, chat: bool, tasks: tuple[str, ...] = TASKS) -> tuple[str, ...]:
    return tuple(task for task in tasks if task not in REFUSED[name, chat])


@PAIRS
@CHATS
def test_some_stock_tasks_through_a_pair_do_not_depend_on_their_company(
    evaluate: Evaluate, name: str, chat: bool
) -> None:
    tasks = answered(name, chat, ("arc_easy", "winogrande", "triviaqa"))
    found, expected = evaluate(name, 4, tasks[::-1], chat), evaluate(name, 1, tasks, chat)
    for task in tasks:
        compare(found, expected, task)


@pytest.mark.slow
@PAIRS
@CHATS
@pytest.mark.parametrize("task", TASKS)
def test_stock_tasks_through_a_pair_do_not_depend_on_their_company_or_are_refused(
    evaluate: Evaluate, name: str, task: str, chat: bool
) -> None:
    if task in REFUSED[name, chat]:
        with pytest.raises(UserError, match=REFUSED[name, chat][task]) as refused:
            evaluate(name, 4, (task,), chat)
        assert "\n" not in str(refused.value)
        return
    tasks = answered(name, chat)
    found, expected = evaluate(name, 4, tasks[::-1], chat), evaluate(name, 1, tasks, chat)
    difference = compare(found, expected, task)
    print(f"\n| {task} | {name} | {'chat' if chat else 'plain'} | {difference:.1e} |")
