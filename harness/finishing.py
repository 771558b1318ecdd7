"""What a run leaves behind once every question is answered; the work of its first process alone.

Guarantees that a run that ended well has each sample once, in an order that depends on nothing but its configuration.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.accuracy import Item
from harness.answering import Work, arms_left_out, in_order, tell
from harness.channels.base import answers_itself
from harness.channels.composed import compose, whole_tasks
from harness.channels.spec import parse_channel, slug
from harness.config import RunConfig
from harness.identity import gates_of
from harness.inference.types import ROLES
from harness.latency import draw, time_questions
from harness.lm_eval_results import lm_eval_results
from harness.loading_tasks import Benchmark
from harness.memory import peak_bytes
from harness.progress import progress
from harness.prompts import conversation_sha256
from harness.records.files import write_atomic
from harness.records.folder import RunFolder
from harness.records.loading import LoadedRun, finite, latest
from harness.records.schema import Timing
from harness.results import facts_of, frame, lost_timings, render_ranking, summarise
from harness.served.throughput import throughput_lines, throughput_of
from harness.session import Session


def conclude(session: Session, folder: RunFolder, work: Work) -> None:
    """Times, composes and sums up.

    Args:
        session: with every sample of every process.
        folder: of the run; closed afterwards.
        work: what the accuracy pass took.

    Raises:
        RunError: the disk is full.
    """
    _latency_pass(session, folder)
    _compose(session, folder)
    session.samples = in_order(session)
    folder.settle(session.samples)
    _finish(session, folder, work)


def accompany(session: Session) -> None:
    """What a further process does meanwhile: its part of the timed answers where all go in step, otherwise nothing."""
    if session.ranks.in_step:
        for _ in _timed(session):
            pass


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


def publish(config: RunConfig, path: Path) -> None:
    """Writes the run's own leaderboard page into its folder, and adds it to the leaderboards that were named."""
    from harness import leaderboard

    leaderboard.write_own(path)
    print(f"Leaderboard: {path / leaderboard.OWN_PAGE}; to publish: run_eval.py report --add {path}", file=sys.stderr)
    if config.leaderboards_dir is None:
        return
    leaderboard.add_record(Path(config.leaderboards_dir), path)
    leaderboard.write(Path(config.leaderboards_dir))
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
            samples = [s for s in latest(map(finite, session.samples)) if s.task in whole]
            composed = compose(spec, samples, [t for t in session.timings if t.task in whole], config.seed)
            session.journal([s for s in composed.samples if before.get((s.task, s.doc_id, *s.arm)) != s])
            session.samples += composed.samples
            folder.add_timings(composed.timings)
            session.timings += composed.timings


def _latency_pass(session: Session, folder: RunFolder) -> None:
    for made in _timed(session):
        folder.add_timings(made)
        session.timings += made


def _timed(session: Session) -> Iterator[list[Timing]]:
    config = session.config
    groups = [g for g in session.cast.groups if not g.name_control]
    channels = [g.channel for g in groups if not answers_itself(g.channel)]
    if not config.latency_samples or not channels:
        return
    known = {(s.task, s.doc_id, s.channel): s for s in session.samples if s.control == ""}
    lengths = [None, config.latency_equal_tokens] if config.latency_equal_tokens else [None]
    drawn = [draw(items, config.latency_samples, config.seed) for items in _headlines(session.benchmark)]
    shown = config.progress and session.ranks.first
    with progress("latency, batch 1", 2 * len(lengths) * sum(map(len, drawn)), shown) as bar:
        for items in drawn:
            for tokens in lengths:
                for turn in time_questions(channels, items, known, config.latency_warm_up, tokens, bar.advance):
                    session.untimed += turn.failed
                    yield turn.timings


def _headlines(benchmark: Benchmark) -> Iterator[list[Item]]:
    """Questions to draw from: a group as one; what a larger group holds is not drawn from again."""
    seen: set[str] = set()
    for tasks in sorted(benchmark.groups.values(), key=len, reverse=True):
        if not seen.issuperset(tasks):
            yield [item for task in tasks for item in benchmark.items[task]]
        seen.update(tasks)


def _finish(session: Session, folder: RunFolder, work: Work) -> None:
    samples = session.samples
    variants = {g.channel.name: g.channel.variant for g in session.cast.groups if not g.name_control}
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
    print(render_ranking(frame([LoadedRun(folder.path, record, samples, session.timings)])))
    for line in throughput_lines(record.throughput):
        print(line)
    tell(record.warnings)
    print(f"Records: {folder.path}; all rows: run_eval.py report {folder.path} --all", file=sys.stderr)


def _peaks(session: Session, work: Work) -> dict[str, int]:
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
