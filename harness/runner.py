"""One run from configuration to records, table and leaderboard.

Guarantees the order: everything that can be refused is refused before the folder exists; every batch is journalled
before the next is asked; whatever ends the run leaves a folder that `--resume` continues to the same answers.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.accuracy import Item, Tally, answer_task
from harness.assembly import Cast, assemble
from harness.config import RunConfig, differing, identity, identity_hash
from harness.engine import Budget
from harness.errors import RunError, UserError
from harness.identity import extra_identity, fusers_of, gates_of, models_of
from harness.latency import draw, time_questions
from harness.loading_tasks import Benchmark, load_benchmark
from harness.memory import peak_bytes
from harness.progress import progress
from harness.records import provenance
from harness.records.files import write_atomic
from harness.records.folder import RunFolder, now
from harness.records.hardware import hardware
from harness.records.schema import RunRecord, Sample, Timing
from harness.replay import lm_eval_results
from harness.results import effects, headline, render_table, summarise
from harness.routing import route

_FIXED: dict[str, tuple[Any, str]] = {
    "log_samples": (True, "the answers are what a run is continued from, so they are always kept"),
}


@dataclass
class Session:
    """A run in progress.

    Attributes:
        samples: everything answered so far, earlier sessions included.
        timings: of this session only; a resumed answer never carries a timing.
        untimed: timed answers that failed and so have no timing.
    """

    config: RunConfig
    cast: Cast
    benchmark: Benchmark
    folder: RunFolder
    samples: list[Sample]
    timings: list[Timing]
    tally: Tally
    untimed: int = 0


def run(config: RunConfig, command: Sequence[str] = ()) -> Path:
    """Runs a configuration and returns the folder of its records.

    Raises:
        UserError: something asked for cannot be had.
        RunError: too many samples failed, or the disk is full.
    """
    _quiet()
    _refuse_early(config)
    benchmark = load_benchmark(config)
    cast = assemble(config)
    record = _record(config, cast, benchmark, command)
    with _sigterm_as_interrupt(), _opened(config, record) as folder:
        # What failed before is asked again, so that its error does not count beside its answer.
        answered = [s for s in folder.samples if s.done]
        session = Session(config, cast, benchmark, folder, answered, [], Tally())
        _write_questions(session)
        _accuracy_pass(session)
        _route(session)
        _latency_pass(session)
        _finish(session)
    _publish(config, folder.path)
    return folder.path


def _refuse_early(config: RunConfig) -> None:
    """Says what would otherwise show only after hours, or never."""
    for name, (kept, why) in _FIXED.items():
        if getattr(config, name) != kept:
            raise UserError(f"{name} cannot be set for this command: {why}.")
    if "routed" in config.channels and not {"receiver", "sharer"} <= set(config.channels):
        raise UserError("Channel routed chooses between receiver and sharer; add both to --channels.")
    if config.leaderboards_dir is not None and Path(config.leaderboards_dir).is_file():
        raise UserError(f"--leaderboards_dir {config.leaderboards_dir} is a file; give a folder.")


def _accuracy_pass(session: Session) -> None:
    config, budget = session.config, Budget(session.config.batch_size, session.config.max_batch_tokens)
    done = {(s.task, s.doc_id, s.channel, s.control) for s in session.samples if s.done}
    for group in session.cast.groups:
        arms = 1 + len(group.controls)
        total = arms * len(session.benchmark.all_items)
        with progress(f"{group.channel.name}{' and controls' if arms > 1 else ''}", total, config.progress) as bar:
            for items in session.benchmark.items.values():
                drawn = (config.seed, config.calibration_samples)
                for made, notes in answer_task(group, items, done, budget, *drawn, session.tally):
                    session.folder.add_samples(made)
                    session.samples += made
                    bar.advance(len(made))
                    _tell(notes)
                    _stop_on_errors(session)


def _stop_on_errors(session: Session) -> None:
    """Stops once the errors alone exceed what the whole run allows."""
    failed = [s for s in session.samples if s.error is not None]
    arms = sum(1 + len(g.controls) for g in session.cast.groups)
    allowed = session.config.max_error_rate * arms * len(session.benchmark.all_items)
    if failed and len(failed) > max(allowed, 1):
        last = failed[-1].error
        raise RunError(
            f"{len(failed)} of {len(session.samples)} samples failed, more than --max_error_rate "
            f"{session.config.max_error_rate:g} allows; the last said: {last.message if last else ''}"
        )


def _route(session: Session) -> None:
    config = session.config
    if "routed" not in config.channels:
        return
    done = {(s.task, s.doc_id, s.control) for s in session.samples if s.channel == "routed"}
    for task in session.benchmark.items:
        alone = {c: [s for s in session.samples if s.task == task and s.arm == (c, "")] for c in ("receiver", "sharer")}
        for control in ("", *(c for c in config.controls if c == "mismatched")):
            made = route(alone["receiver"], alone["sharer"], config.routed_fraction, control, config.seed)
            made = [s for s in made if (s.task, s.doc_id, s.control) not in done]
            session.folder.add_samples(made)
            session.samples += made


def _latency_pass(session: Session) -> None:
    config = session.config
    channels = [g.channel for g in session.cast.groups if not g.name_control]
    if not config.latency_samples or not channels:
        return
    known = {(s.task, s.doc_id, s.channel): s for s in session.samples if s.control == ""}
    lengths = [None, config.latency_equal_tokens] if config.latency_equal_tokens else [None]
    drawn = [draw(items, config.latency_samples, config.seed) for items in _headlines(session.benchmark)]
    with progress("latency, batch 1", 2 * len(lengths) * sum(map(len, drawn)), config.progress) as bar:
        for items in drawn:
            for tokens in lengths:
                for made in time_questions(channels, items, known, config.latency_warm_up, tokens, bar.advance):
                    session.folder.add_timings(made)
                    session.timings += made
                    session.untimed += len(channels) - len(made)


def _headlines(benchmark: Benchmark) -> Iterator[list[Item]]:
    """Questions to draw from: a group as one; what a larger group holds is not drawn from again."""
    seen: set[str] = set()
    for tasks in sorted(benchmark.groups.values(), key=len, reverse=True):
        if not seen.issuperset(tasks):
            yield [item for task in tasks for item in benchmark.items[task]]
        seen.update(tasks)


def _finish(session: Session) -> None:
    folder, samples = session.folder, session.samples
    variants = {g.channel.name: g.channel.variant for g in session.cast.groups if not g.name_control}
    rows = summarise(samples, session.timings, session.benchmark.groups, variants)
    warnings = [*folder.record.warnings, *folder.warnings, *_differing_answers(session.timings)]
    if session.untimed:
        warnings.append(f"{session.untimed} answers of the latency pass failed; its figures are over the others.")
    update = {
        "results": rows,
        "counters": {name: work.counters.as_dict() for name, work in session.tally.work.items()},
        "peak_memory_bytes": {"process": peak_bytes(session.cast.receiver.device)},
        "fusion": gates_of(session.cast),
        "warnings": warnings,
    }
    folder.update(folder.record.model_copy(update=update))
    _write_lm_eval(session)
    record = folder.finish("success")
    shown = headline(rows, session.benchmark.groups)
    print(render_table(shown, effects(samples, session.benchmark.groups), color=sys.stdout.isatty()))
    _tell(record.warnings)
    print(f"Records: {folder.path}", file=sys.stderr)


def _differing_answers(timings: Sequence[Timing]) -> list[str]:
    differing = [t for t in timings if t.same_answer is False]
    if not differing:
        return []
    compared = sum(t.same_answer is not None for t in timings)
    return [f"{len(differing)} of {compared} timed answers differ from the accuracy pass's."]


def _write_questions(session: Session) -> None:
    lines = []
    for item in session.benchmark.all_items:
        document = item.document
        kept = {k: document.get(k, "") for k in ("question", "choices", "labels", "key", "subject")}
        prompt = item.request.query.conversation.plain
        line = {"task": item.task, "doc_id": item.doc_id, **kept, "prompt": prompt}
        lines.append(json.dumps(line, ensure_ascii=False))
    write_atomic(session.folder.path / "questions.jsonl", "\n".join(lines) + "\n")


def _write_lm_eval(session: Session) -> None:
    for group in session.cast.groups:
        if group.name_control:
            continue
        found = lm_eval_results(session.benchmark, session.samples, group.channel.name)
        path = session.folder.path / "lm_eval" / f"results_{group.channel.name}.json"
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps(found, indent=2, default=str) + "\n")


def _publish(config: RunConfig, path: Path) -> None:
    if config.leaderboards_dir is None:
        return
    from harness import leaderboard

    leaderboard.add_record(Path(config.leaderboards_dir), path)
    leaderboard.write(Path(config.leaderboards_dir))
    print(f"Leaderboard: {config.leaderboards_dir}", file=sys.stderr)


def _record(config: RunConfig, cast: Cast, benchmark: Benchmark, command: Sequence[str]) -> RunRecord:
    models, fusers = models_of(cast), fusers_of(config, cast)
    extra = extra_identity(benchmark, models, fusers)
    return RunRecord(
        run_id=time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + identity_hash(config, extra)[:8],
        status="started",
        started_at=now(),
        command=list(command),
        identity=identity_hash(config, extra),
        identity_fields=identity(config, extra),
        config=config.model_dump(mode="json"),
        models=models,
        fusers=fusers,
        datasets=benchmark.fingerprints,
        task_versions=benchmark.versions,
        groups=benchmark.groups,
        packages=provenance.packages(),
        environment=provenance.environment(),
        hardware=hardware(),
        git=provenance.git(),
    )


def _opened(config: RunConfig, record: RunRecord) -> RunFolder:
    path = Path(config.output_path) if config.output_path else Path("runs") / record.run_id
    if not config.resume:
        return RunFolder.create(path, record)
    folder = RunFolder.open(path)
    if folder.record.identity != record.identity:
        names = differing(folder.record.identity_fields, record.identity_fields)
        folder.close()
        raise UserError(f"The run in {path} was another one; differing: {', '.join(names)}. Use a new --output_path.")
    folder.clear_timings()  # timings of an earlier session are never mixed with this one's
    kept = sum(s.done for s in folder.samples)
    folder.update(record.model_copy(update={"run_id": folder.record.run_id, "resumed": kept}))
    return folder


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)


def _quiet() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


