"""One question on the terminal: what each model was asked, what crossed, what every arm answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from textwrap import fill, wrap

from harness.errors import UserError, suggest
from harness.records.journal import LoadedRun
from harness.records.schema import RunRecord, Sample
from harness.report.sidecar import Question, read_questions
from harness.results.formatting import arm_text, bytes_text, printable, seconds_text
from harness.results.grouping import Key, arm_order, entry_of
from harness.results.terminal_table import WIDTH

_INDENT = "  "


def render_question(run: LoadedRun, name: str, width: int = WIDTH) -> str:
    """Writes a question of a run; of every task that has one of this id.

    Args:
        run: with its samples.
        name: the question's id, or ``task/id``.
        width: columns of the terminal.

    Raises:
        UserError: the run has no such question.
    """
    answers: dict[Key, list[Sample]] = {}
    for sample in run.samples:
        if name in (sample.doc_id, f"{sample.task}/{sample.doc_id}"):
            answers.setdefault((sample.task, sample.doc_id), []).append(sample)
    if not answers:
        raise _unknown(run, name)
    asked = read_questions(run.path)
    blocks = (line for key, found in answers.items() for line in _question(run, key, found, asked.get(key), width))
    return "\n".join(blocks)


def _unknown(run: LoadedRun, name: str) -> UserError:
    ids = list(dict.fromkeys(sample.doc_id for sample in run.samples))
    some = ", ".join(map(repr, ids[:3])) or "none"
    return UserError(
        f"{run.path} has no answer to question {name!r}; its questions are {some}, ...{suggest(name, ids)}"
    )


def _question(run: LoadedRun, key: Key, samples: Sequence[Sample], asked: Question | None, width: int) -> Iterator[str]:
    first = samples[0]
    facts = [f"key {first.key}", first.subject and f"subject {first.subject}"]
    yield fill(printable(f"{'/'.join(key)}: {', '.join(filter(None, facts))}"), width)
    yield from _prompts(asked, _readers(run.record), width)
    for sample in sorted(samples, key=lambda sample: arm_order(sample.arm)):
        yield ""
        yield from _answer(sample, _seconds(run, sample), width)
    yield ""


def _readers(record: RunRecord) -> str:
    """Says who reads a prompt that is the same for all."""
    sharers = sum(model.role.startswith("sharer") for model in record.models)
    return {0: "receiver reads", 1: "both models read"}.get(sharers, "all models read")


def _prompts(asked: Question | None, readers: str, width: int) -> Iterator[str]:
    if asked is None or not asked.prompt:
        yield "The run kept no text of this prompt."
        return
    both = [("receiver reads", asked.prompt), ("sharer reads", asked.sharer_prompt)]
    for title, text in both if asked.sharer_prompt else [(readers, asked.prompt)]:
        yield f"\n{title}:"
        yield from _indented(text, width)


def _answer(sample: Sample, seconds: float | None, width: int) -> Iterator[str]:
    yield fill(", ".join(_facts(sample, seconds)), width, subsequent_indent=_INDENT)
    if sample.message_text is not None:
        yield f"{_INDENT}message:"
        yield from _indented(sample.message_text, width, 2)
    if sample.text is not None:
        yield f"{_INDENT}answer:"
        yield from _indented(sample.text, width, 2)
    if sample.loglikelihoods is not None:
        labels = [*sample.labels, *map(str, range(len(sample.labels), len(sample.loglikelihoods)))]
        nats = (f"{label} {value:.2f}" for label, value in zip(labels, sample.loglikelihoods, strict=False))
        yield fill(f"nats: {', '.join(nats)}", width, initial_indent=_INDENT, subsequent_indent=_INDENT * 2)
    if sample.error is not None:
        yield from _indented(f"{sample.error.type}: {sample.error.message}", width)


def _facts(sample: Sample, seconds: float | None) -> Iterator[str]:
    said = sample.predicted or ("no answer" if sample.error else "invalid")
    yield printable(f"{arm_text(*sample.arm)}: {said}")
    yield ("right" if sample.correct else "wrong") if sample.done else "error"
    entry = entry_of(sample.channel)
    if sample.payload_bytes:
        kind = f" of {entry.message}" if entry and entry.message else ""
        yield f"{bytes_text(sample.payload_bytes)}{kind} crossed"
    if sample.routed_to:
        yield f"routed to the {sample.routed_to}"
    if sample.prompt_tokens:
        yield f"{sample.prompt_tokens} tokens read"
    if seconds is not None:
        yield f"{seconds_text(seconds)} alone"


def _seconds(run: LoadedRun, sample: Sample) -> float | None:
    place = (sample.task, sample.doc_id, *sample.arm)
    found = [
        timing.e2e_s
        for timing in run.timings
        if (timing.task, timing.doc_id, timing.channel, timing.control) == place and not timing.equal_length
    ]
    return median(found) if found else None


def _indented(text: str, width: int, depth: int = 1) -> Iterable[str]:
    indent = _INDENT * depth
    for line in printable(text).splitlines() or [""]:
        yield from wrap(line, width, initial_indent=indent, subsequent_indent=indent) or [""]
