"""lm-eval's results file of a run: its metrics aggregated over the recorded scores, in its own layout.

lm-eval knows no errors; questions without an answer are left out of its file, and its `n-samples` says how many it saw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from harness.loading_tasks import Benchmark
from harness.records.schema import Sample
from harness.scoring import scores_of


def lm_eval_results(
    benchmark: Benchmark, samples: Sequence[Sample], channel: str, prompts: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Aggregates one channel's recorded scores with the aggregation functions of each task.

    Args:
        benchmark: with lm-eval's tasks.
        samples: of the run, scored when they were answered.
        channel: whose answers as sent are aggregated.
        prompts: how prompts became tokens, see `harness.prompt_record.described`.

    Returns:
        What `lm_eval.evaluate` returns for these answers.
    """
    arm = [s for s in samples if s.arm == (channel, "") and s.done]
    answered = {name: [s for s in arm if s.task == name] for name in benchmark.items}
    answered = {name: sorted(found, key=lambda s: s.position) for name, found in answered.items() if found}
    if not answered:
        return {"results": {}}
    tasks = {name: benchmark.loaded[name] for name in answered}
    configs = {name: dict(task.dump_config()) for name, task in tasks.items()}
    return {
        "results": {name: _results(name, tasks[name], configs[name], found) for name, found in answered.items()},
        "group_subtasks": {},
        "configs": dict(sorted(configs.items())),
        "versions": {name: task.VERSION for name, task in sorted(tasks.items())},
        "n-shot": {name: configs[name].get("num_fewshot", 0) for name in sorted(tasks)},
        "higher_is_better": {name: task.higher_is_better() for name, task in sorted(tasks.items())},
        "n-samples": {
            name: {"original": len(tasks[name].eval_docs), "effective": len(found)} for name, found in answered.items()
        },
        "config": {"model": channel, "source": "recorded answers", "prompts": dict(prompts or {})},
    }


def _results(name: str, task: Any, config: Mapping[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
    aggregation, filters = task.aggregation(), filter_names(task)
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    for sample in samples:
        for pair, value in scores_of(sample, filters, list(aggregation)).items():
            scores[pair].append(value)
    results: dict[str, Any] = {"name": name, "alias": config.get("task_alias", name), "sample_len": len(samples)}
    for (metric, filter_name), values in scores.items():
        results[f"{metric},{filter_name}"] = aggregation[metric](values)
        results[f"{metric}_stderr,{filter_name}"] = "N/A"
    return results


def filter_names(task: Any) -> list[str]:
    """Names of an lm-eval task's filters, the one that decides first."""
    return [found["name"] for found in task.config.filter_list or [{"name": "none"}]]
