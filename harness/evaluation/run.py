"""One run from configuration to records, table and leaderboard.

Guarantees the order: everything that can be refused is refused before the folder exists; every batch is journalled
before the next is asked; however the run ends, it leaves a folder that `--resume` continues to the same answers.

A run itself changes nothing in its process. What a command changes is restored when it ends, so two runs in one
process, one after another or in two threads, answer and record what each would in a process of its own.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from harness.benchmarks.questions import Benchmark, load_benchmark, origin_of_data, with_datasets_dir
from harness.channels.control_registry import not_taken
from harness.channels.engine import ending_with_the_device
from harness.channels.spec import parse_channel
from harness.config import RunConfig, differing, identity, identity_hash
from harness.distributed import Ranks
from harness.errors import UserError
from harness.evaluation.accuracy_pass import PassStats, answer_all, answers_open, print_notes
from harness.evaluation.finalize import finish_run, publish_pages, write_questions
from harness.evaluation.fingerprint import extra_identity, fusers_of, models_of
from harness.evaluation.latency_pass import answers_to_time, follow_latency_pass, time_answers
from harness.evaluation.plugin_code import plugin_code
from harness.evaluation.prompt_record import prompt_settings, with_renderings
from harness.evaluation.run_state import Session
from harness.evaluation.setup import Cast, InMemory, check_answerable, load_cast
from harness.inference.memory import forget_peak
from harness.models.chat import Reading
from harness.models.hub import Commits
from harness.progress import progress, quiet, stage
from harness.records import provenance
from harness.records.folder import RankFolder, RunFolder, now_iso
from harness.records.journal import is_run, read_record
from harness.records.provenance import hardware
from harness.records.schema import Processes, RunRecord, recorded_commits
from harness.serving.channels import engine_of

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def one_run_at_a_time() -> Iterator[None]:
    """Waits until no other thread runs the block; inside it peak memory counts anew.

    While transformers loads a model it changes torch's default number format for the whole process, and two runs at
    once would each time the other.
    """
    with _ONE_AT_A_TIME:
        forget_peak()
        yield


@contextmanager
def owned() -> Iterator[None]:
    """What a command does to the process that is its own: the libraries are silent and SIGTERM cancels.

    `harness.evaluation.run.run` does nothing of it: in a caller's process logging, bars, warnings and signals are the
    caller's.
    """
    with libraries_silent(), sigterm_as_interrupt():
        yield


@contextmanager
def libraries_silent() -> Iterator[None]:
    """Hides the bars and hints of libraries, those that other threads begin meanwhile included, and then shows them."""
    with _ONE_AT_A_TIME, quiet():
        yield


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Sets variables that the environment does not set, for the time of the block."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Turns SIGTERM into KeyboardInterrupt; nothing outside the main thread, the only one that may set handlers."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        # A handler that was not set from Python reads as None and cannot be set again.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


_FIXED: dict[str, tuple[Any, str]] = {
    "log_samples": (True, "the answers are what a run is continued from, so they are always kept"),
}


def run(
    config: RunConfig,
    command: Sequence[str] = (),
    ranks: Ranks | None = None,
    given: InMemory | None = None,
    shown: bool = True,
) -> Path:
    """Runs a configuration and returns the folder of its records.

    Args:
        config: what is asked.
        command: how, for the record.
        ranks: the processes that share the work, each of which calls this; None for this one alone.
        given: models and fusers that are in memory already.
        shown: print the ranking, and where everything is.

    Raises:
        UserError: something asked for cannot be had.
        RunError: too many samples failed, the disk is full or another process is gone.
    """
    with one_run_at_a_time(), ending_with_the_device():
        return _run(config, command, (ranks or Ranks()).stepping(config.tensor_parallel), given, shown)


def _run(asked: RunConfig, command: Sequence[str], ranks: Ranks, given: InMemory | None, shown: bool) -> Path:
    asked = _as_begun(asked)
    config = with_datasets_dir(asked)
    with stage("Reading models and questions ...", config.progress and ranks.first):
        config, benchmark, cast, record = ranks.together(lambda: prepared(config, command, ranks, given))
    record = _agreed(record.model_copy(update={"datasets_from": origin_of_data(asked)}), ranks)
    with ExitStack() as closing:
        folder, session = _opened(config, cast, benchmark, record, ranks, closing)
        if isinstance(folder, RunFolder):
            write_questions(benchmark, folder.path)
        session.shown = shown
        work = _measured(session, folder)
        ranks.together(lambda: finish_run(session, folder, work) if isinstance(folder, RunFolder) else None)
    if ranks.first:
        publish_pages(config, folder.path, shown)
    return folder.path


def _measured(session: Session, folder: RunFolder | RankFolder) -> PassStats:
    """Answers every question, then times some of them, under one display of progress."""
    timed, ranks = answers_to_time(session), session.ranks
    unit, shown = "answers and timings" if timed else "answers", session.config.progress and ranks.first
    with progress("answers", answers_open(session) + timed, shown, unit) as session.bar:
        work = answer_all(session)
        ranks.together(
            lambda: time_answers(session, folder) if isinstance(folder, RunFolder) else follow_latency_pass(session)
        )
    return work


def _as_begun(config: RunConfig) -> RunConfig:
    """A run that is to be resumed, but has not come to its record yet, starts; a job that is requeued is one line."""
    if not config.resume or config.output_path is None or is_run(Path(config.output_path)):
        return config
    return RunConfig.model_validate({**config.model_dump(), "resume": False})


def prepared(
    config: RunConfig, command: Sequence[str], ranks: Ranks, given: InMemory | None = None
) -> tuple[RunConfig, Benchmark, Cast, RunRecord]:
    """Reads models and questions, and refuses all that can be refused before the run has a folder.

    Returns:
        The configuration without channels that do not apply, the questions, the models, and the record so far.

    Raises:
        UserError: see above.
    """
    _refuse_early(config)
    benchmark = load_benchmark(config)
    placed = config.model_copy(update={"device": ranks.device(config.device)})
    cast = load_cast(placed, [item.request for item in benchmark.all_items], _commits(config), given)
    check_answerable(cast, benchmark.all_items)
    benchmark = with_renderings(benchmark, cast)
    if cast.left_out:
        print_notes([f"{name} is left out: {reason}." for name, reason in cast.left_out.items()] if ranks.first else [])
        config = config.model_copy(update={"channels": tuple(c for c in config.channels if c not in cast.left_out)})
    if ranks.first:
        print_notes([*_asked_whole(config, benchmark), *_controls_left_out(config)])
    return config, benchmark, cast, _record(config, cast, benchmark, command)


def _asked_whole(config: RunConfig, benchmark: Benchmark) -> list[str]:
    """Says in one line which tasks have fewer questions than the limit allows."""
    found = [f"{name} has {size:,}" for name, size in benchmark.sizes.items() if size < (config.limit or 0)]
    more = f" and {len(found) - 3} more tasks have fewer" if len(found) > 3 else ""
    return [f"--limit is {config.limit:,}, but {', '.join(found[:3])}{more}; all are asked."] if found else []


def _controls_left_out(config: RunConfig) -> list[str]:
    """Says in one line which controls of the run some of its channels cannot take."""
    lines = not_taken(config.controls, {name: parse_channel(name).entry for name in config.channels})
    return [f"Controls that a channel cannot take are left out there: {'; '.join(lines)}."] if lines else []


def _commits(config: RunConfig) -> Commits:
    """What references without a commit stand for: on resuming, what they stood for when the run began."""
    if not config.resume or config.output_path is None:
        return Commits()
    return Commits(recorded_commits(read_record(Path(config.output_path))))


def _agreed(record: RunRecord, ranks: Ranks) -> RunRecord:
    """Refuses processes that would answer other questions, or with other weights, than the first."""
    told = ranks.everywhere((record.identity_fields, record.hardware.fingerprint, ranks.local_rank))
    for rank, (fields, _, _) in enumerate(told):
        if names := differing(told[0][0], fields):
            error = UserError(
                f"Rank {rank} of {ranks.world} has another run than the first; differing: {', '.join(names)}. "
                "Give every node the same models, data and code."
            )
            error.silent = not ranks.first
            raise error
    others = "" if ranks.world == 1 else ", others in step" if ranks.in_step else ", others idle"
    processes = Processes(
        ranks=ranks.world,
        nodes=sum(local == 0 for _, _, local in told),
        hardware=list(dict.fromkeys(fingerprint for _, fingerprint, _ in told)),
        latency=f"rank 0{others}",
    )
    return record.model_copy(update={"processes": processes})


def _refuse_early(config: RunConfig) -> None:
    """Says what would otherwise show only after hours, or never."""
    for name, (kept, why) in _FIXED.items():
        if getattr(config, name) != kept:
            raise UserError(f"{name} cannot be set for this command: {why}.")
    if config.leaderboards_dir is not None and Path(config.leaderboards_dir).is_file():
        raise UserError(f"--leaderboards_dir {config.leaderboards_dir} is a file; give a folder.")


def _record(config: RunConfig, cast: Cast, benchmark: Benchmark, command: Sequence[str]) -> RunRecord:
    models, fusers = models_of(cast), fusers_of(config, cast)
    extra = extra_identity(benchmark, cast, models, fusers)
    if code := plugin_code(config, [*cast.fusers, *filter(None, [cast.self_fuser])]):
        extra["plugins"] = code
    return RunRecord(
        run_id=_new_run_id(),
        status="started",
        started_at=now_iso(),
        command=list(command),
        job=config.job or provenance.job(),
        identity=identity_hash(config, extra),
        identity_fields=identity(config, extra),
        config=config.model_dump(mode="json"),
        models=models,
        fusers=fusers,
        datasets=benchmark.fingerprints,
        dataset_revisions=benchmark.revisions,
        unpinned=list(benchmark.unpinned),
        task_versions=benchmark.versions,
        groups=benchmark.groups,
        majority=benchmark.majority,
        strata=list(benchmark.strata),
        packages=provenance.packages(),
        environment=provenance.environment(),
        hardware=hardware(),
        prompts=_prompts(config, cast),
        engine=engine_of(config),
        git=provenance.git(),
    )


def _prompts(config: RunConfig, cast: Cast) -> dict[str, str]:
    own = [
        ("receiver", cast.receiver),
        *((f"sharer {i}", s) for i, s in enumerate(cast.sharers)),
        ("tuned", cast.tuned),
    ]
    served = [(model.role, model) for model in cast.served if model.kind == "tokens"]
    return prompt_settings(
        Reading(thinking=config.enable_thinking), {r: lm for r, lm in [*own, *served] if lm is not None}
    )


def _new_run_id() -> str:
    """A second and a random number: no other run has it, however many start in that second."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(5)}"


def _opened(
    config: RunConfig, cast: Cast, benchmark: Benchmark, record: RunRecord, ranks: Ranks, closing: ExitStack
) -> tuple[RunFolder | RankFolder, Session]:
    """Opens the folder on the first process, then the other processes' journals in it."""
    first = ranks.together(lambda: closing.enter_context(_first_opened(config, record)) if ranks.first else None)
    # What failed before is asked again, so that its error does not count beside its answer.
    answered = [s for s in first.samples if s.done] if first else []
    done = frozenset((s.task, s.doc_id, s.channel, s.control) for s in answered)
    if first and ranks.world > 1:
        first.admit()
    told = (first.path.absolute(), first.record.run_id, done) if first else None
    shared = ranks.everywhere(told)[0]
    if shared is None:
        raise AssertionError("the first process has opened the folder")
    path, run_id, done = shared
    folder = ranks.together(lambda: first or closing.enter_context(RankFolder(path, ranks.rank, run_id)))
    journal = folder.add_samples if ranks.keeps else (lambda _: None)
    return folder, Session(config, cast, benchmark, ranks, journal, done, answered)


def _first_opened(config: RunConfig, record: RunRecord) -> RunFolder:
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
