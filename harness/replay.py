"""lm-eval's own results from our journal: it scores the recorded answers, nothing is asked again.

lm-eval knows no errors; questions without an answer are left out of its file, and its `n-samples` says how many it saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate

from harness.asking import chat_text
from harness.loading_tasks import Benchmark
from harness.records.schema import Sample

Answers = dict[tuple[str, int], Sample]


class ReplayLM(LM):
    """Answers from recorded samples of one arm."""

    def __init__(self, answers: Answers, places: dict[str, list[int]]) -> None:
        super().__init__()
        self.answers, self.places = answers, places

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Recorded loglikelihoods; whether decoding would be greedy is not recorded and not used."""
        return [((self._sample(r).loglikelihoods or [])[r.idx], False) for r in requests]

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Recorded texts."""
        return [self._sample(r).text or "" for r in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Never recorded."""
        raise TypeError("rolling loglikelihoods are not recorded")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The rendering that the run used."""
        return chat_text(chat_history, add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """Part of lm-eval's cache keys."""
        return "harness"

    def _sample(self, request: Any) -> Sample:
        return self.answers[request.task_name, self.places[request.task_name][request.doc_id]]


def lm_eval_results(benchmark: Benchmark, samples: Sequence[Sample], channel: str) -> dict[str, Any]:
    """Lets lm-eval aggregate one channel's answers."""
    arm = [s for s in samples if s.arm == (channel, "") and s.done]
    places = {t: sorted(s.position for s in arm if s.task == t) for t in benchmark.items}
    tasks = {t: benchmark.loaded[t] for t, found in places.items() if found}
    if not tasks:
        return {"results": {}}
    answers = {(s.task, s.position): s for s in arm}
    chat = any(i.request.query.receiver.chat for i in benchmark.all_items)
    found = evaluate(
        ReplayLM(answers, places),
        {"tasks": tasks, "groups": {}, "group_map": {}},
        samples={t: places[t] for t in tasks},
        bootstrap_iters=0,
        log_samples=False,
        apply_chat_template=chat,
    )
    return {**dict(found or {}), "config": {"model": channel, "source": "recorded answers"}}
