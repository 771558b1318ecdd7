"""What follows the passes of a run: results, lm-eval's results files, and its record's last state.

All of it is done by the first process, once every question is answered. Guarantees that a run that ended well has each
sample once, in an order that depends on its configuration alone.

lm-eval's results file aggregates its metrics over the recorded scores in its own layout. lm-eval knows no errors, so
questions without an answer are left out of that file, and its `n-samples` says how many it saw.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.benchmarks.answer_parsing import scores_of
from harness.benchmarks.questions import Benchmark
from harness.channels.routed import compose
from harness.channels.spec import parse_channel, slug
from harness.config import RunConfig
from harness.evaluation.accuracy_pass import PassStats, arms_left_out, in_order, print_notes
from harness.evaluation.fingerprint import gates_of
from harness.evaluation.run_state import Session
from harness.inference.memory import peak_bytes
from harness.inference.types import ROLES
from harness.models.chat import conversation_sha256
from harness.paths import program
from harness.records.files import write_atomic
from harness.records.folder import RunFolder
from harness.records.journal import LoadedRun, latest_samples, without_nonfinite
from harness.records.schema import Sample, Timing, whole_tasks
from harness.results import facts_of, frame, lost_timings, render_ranking, summarise
from harness.serving.channels import throughput_lines, throughput_of


def lm_eval_results(
    benchmark: Benchmark, samples: Sequence[Sample], channel: str, prompts: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Aggregates one channel's recorded scores with the aggregation functions of each task.

    Args:
        benchmark: with lm-eval's tasks.
        samples: of the run, scored when they were answered.
        channel: whose answers as sent are aggregated.
        prompts: how prompts became tokens, see `harness.evaluation.prompt_record.prompt_settings`.

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


def finish_run(session: Session, folder: RunFolder, work: PassStats) -> None:
    """Composes and sums up.

    Args:
        session: with every sample of every process and the timings.
        folder: of the run; closed afterwards.
        work: what the accuracy pass took.

    Raises:
        RunError: the disk is full.
    """
    _compose(session, folder)
    session.samples = in_order(session)
    folder.settle(session.samples)
    _finish(session, folder, work)


def write_questions(benchmark: Benchmark, path: Path) -> None:
    """Writes what was asked beside the answers."""
    lines = []
    for item in benchmark.all_items:
        document = item.document
        kept = {k: document.get(k, "") for k in ("question", "choices", "labels", "key", "subject")}
        query = item.request.query
        line = {"task": item.task, "doc_id": item.doc_id, **kept, "prompt": query.receiver.plain}
        if query.sharer_view is not None:
            digests = {role: conversation_sha256(query.of(role)) for role in ROLES}
            line |= {"sharer_prompt": query.sharer.plain, "prompt_sha256": digests}
        lines.append(json.dumps(line, ensure_ascii=False))
    write_atomic(path / "questions.jsonl", "\n".join(lines) + "\n")


def publish_pages(config: RunConfig, path: Path, shown: bool = True) -> None:
    """Writes the run's own leaderboard page into its folder, and adds it to the leaderboards that were named."""
    from harness import leaderboard

    leaderboard.write_own(path)
    if shown:
        page = path / leaderboard.OWN_PAGE
        print(f"Leaderboard: {page}; to publish: {program()} report --add {path}", file=sys.stderr)
    if config.leaderboards_dir is None:
        return
    leaderboard.add_record(Path(config.leaderboards_dir), path)
    leaderboard.write(Path(config.leaderboards_dir))
    if shown:
        print(f"Leaderboards: {config.leaderboards_dir}", file=sys.stderr)


def _compose(session: Session, folder: RunFolder) -> None:
    """Composes the channels without a model pass; those of an earlier session anew, since its errors may be answers."""
    config, benchmark = session.config, session.benchmark
    specs = [spec for spec in map(parse_channel, config.channels) if spec.entry.compose]
    names = {spec.text for spec in specs}
    before = {(s.task, s.doc_id, *s.arm): s for s in session.samples if s.channel in names}
    session.samples = [s for s in session.samples if s.channel not in names]
    for spec in specs:
        for whole in whole_tasks(benchmark.groups, list(benchmark.items)):
            samples = [s for s in latest_samples(map(without_nonfinite, session.samples)) if s.task in whole]
            composed = compose(spec, samples, [t for t in session.timings if t.task in whole], config.seed)
            session.journal([s for s in composed.samples if before.get((s.task, s.doc_id, *s.arm)) != s])
            session.samples += composed.samples
            folder.add_timings(composed.timings)
            session.timings += composed.timings


def _finish(session: Session, folder: RunFolder, work: PassStats) -> None:
    samples = session.samples
    variants = {(g.channel.name, g.name_control): g.channel.variant for g in session.cast.groups}
    facts = facts_of(folder.record)
    rows = summarise(samples, session.timings, facts, variants)
    warnings = [*folder.record.warnings, *folder.warnings, *arms_left_out(session)]
    warnings += [*_differing_answers(session.timings), *lost_timings(session.timings)]
    if session.untimed:
        warnings.append(f"{session.untimed} answers of the latency pass failed; its figures are over the others.")
    update = {
        "results": rows,
        "counters": work.counters,
        "peak_memory_bytes": _peaks(session, work),
        "fusion": gates_of(session.cast),
        "throughput": throughput_of(session.config, session.tally.work),
        "warnings": warnings,
    }
    folder.update(folder.record.model_copy(update=update))
    _write_lm_eval(session, folder)
    record = folder.finish("success")
    if session.shown:
        print(render_ranking(frame([LoadedRun(folder.path, record, samples, session.timings)])))
        for line in throughput_lines(record.throughput):
            print(line)
    print_notes(record.warnings)
    if session.shown:
        print(f"Records: {folder.path}; all rows: {program()} report {folder.path} --all", file=sys.stderr)


def _peaks(session: Session, work: PassStats) -> dict[str, int]:
    """Of the largest process, then of each where there are several; the first has timed since it last told."""
    each = [max(work.peak_memory_bytes[0], peak_bytes(session.cast.device)), *work.peak_memory_bytes[1:]]
    own = {f"rank {rank}": peak for rank, peak in enumerate(each)} if len(each) > 1 else {}
    return {"process": max(each), **own}


def _differing_answers(timings: Sequence[Timing]) -> list[str]:
    differing = [t for t in timings if t.same_answer is False]
    if not differing:
        return []
    compared = sum(t.same_answer is not None for t in timings)
    return [f"{len(differing)} of {compared} timed answers differ from the accuracy pass's."]


def _write_lm_eval(session: Session, folder: RunFolder) -> None:
    for group in session.cast.groups:
        if group.name_control:
            continue
        found = lm_eval_results(session.benchmark, session.samples, group.channel.name, folder.record.prompts)
        path = folder.path / "lm_eval" / f"results_{slug(group.channel.name)}.json"
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps(found, indent=2, default=str) + "\n")
