"""Builds the records that a board keeps from a manifest and its files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from harness.errors import UserError, suggest
from harness.imported import summary
from harness.imported.formats import SUMMARY, format_of, read_rows
from harness.imported.joining import Item, Joined, join
from harness.imported.manifest import ArmName, FigureLine, Figures, Results, Wanted, with_defaults
from harness.imported.questions import Asked, benchmark_of, load_asked, whole_tasks
from harness.imported.rows import Answer, Row
from harness.leaderboard.record_format import NONE, Questions
from harness.leaderboard.reported import Figure, ReportedArm, ReportedRecord, SourceFile
from harness.leaderboard.reported.format import NOT_ASKED
from harness.leaderboard.reported.packing import PackedQuestions
from harness.records.files import explaining, sha256_file

_TENTHS = 1


class Importer:
    """Reads everything that a manifest names; our questions are read once a task.

    Args:
        wanted: the manifest and its folder.
        datasets_dir: folder of local copies of the data sets; None = what the environment says, else the hub.
    """

    def __init__(self, wanted: Wanted, datasets_dir: str | None = None) -> None:
        self._manifest, self._folder, self._datasets_dir = wanted.manifest, wanted.folder, datasets_dir
        self._asked: dict[str, Asked | None] = {}

    def records(self) -> list[ReportedRecord]:
        """Returns the record of every part.

        Raises:
            UserError: if a file cannot be read, is not what was said of it, or does not agree with our questions.
        """
        read = [self._results(part) for part in self._manifest.results]
        return [*read, *(self._figures(part) for part in self._manifest.figures)]

    def _results(self, part: Results) -> ReportedRecord:
        if not part.files:
            raise UserError(f"Results of {part.task} name no file.")
        paths = [self._folder / (file.at or file.path) for file in part.files]
        files = [_source_file(file.path, path, file.sha256) for file, path in zip(part.files, paths, strict=True)]
        forms = [format_of(path, part.format) for path in paths]
        if SUMMARY in forms:
            return self._of_summary(part, paths, files)
        benchmark = benchmark_of(part.task)
        rows = [read_rows(path, form, benchmark, part.filter) for path, form in zip(paths, forms, strict=True)]
        listed = [row for own in rows for row in own]
        joined = join(listed, self._questions(part, listed))
        right = iter(joined.right)
        for path, own in zip(paths, rows, strict=True):
            _check_summary(path, [(row.subject, next(right)) for row in own])
        return self._of_rows(part, files, joined, generated=any(row.text is not None for row in listed))

    def _questions(self, part: Results, rows: Sequence[Row]) -> Asked | None:
        benchmark = benchmark_of(part.task)
        if benchmark is None and part.joined:
            near = suggest(part.task, whole_tasks())
            raise UserError(
                f"{part.task!r} is none of our whole tasks ({', '.join(whole_tasks())}), so that nothing can be joined."
                f"{near} Say `joined: false`, or --not-joined, for a task of others."
            )
        if benchmark is not None and not part.joined:
            raise UserError(f"{part.task} is ours; leave `joined: false` out, or give the task another name.")
        if benchmark is None or not any(row.named for row in rows):
            return None
        if part.task not in self._asked:
            self._asked[part.task] = load_asked(part.task, benchmark, self._datasets_dir)
        return self._asked[part.task]

    def _of_rows(self, part: Results, files: list[SourceFile], joined: Joined, *, generated: bool) -> ReportedRecord:
        names = _arm_names(part, list(joined.answers))
        return ReportedRecord(
            **self._provenance(part),
            files=files,
            task=part.task,
            kind="generate" if generated else "letters",
            joined_by=joined.joined_by,
            own_ids=joined.own_ids,
            of_questions=joined.of_questions,
            cut_options=joined.cut_options,
            questions=PackedQuestions.of(_questions_of(joined.items)),
            arms=[_arm(names[arm], own, joined.items) for arm, own in joined.answers.items()],
        )

    def _of_summary(self, part: Results, paths: Sequence[Path], files: list[SourceFile]) -> ReportedRecord:
        if len(paths) > 1 or part.arms:
            raise UserError(f"{paths[0].name} is a summary of one arm; import each summary by itself.")
        found, arm = summary.read(paths[0]), part.arm()
        figure = Figure(**arm.model_dump(), n=found.n, right=found.right)
        return ReportedRecord(**self._provenance(part), files=files, task=part.task, figures=[figure])

    def _figures(self, part: Figures) -> ReportedRecord:
        return ReportedRecord(
            **self._provenance(part),
            files=[SourceFile(path=part.path)] if part.path else [],
            task=part.task,
            figures=[_figure(line, part.task) for line in part.figures],
        )

    def _provenance(self, part: Results | Figures) -> dict[str, object]:
        about = with_defaults(part, self._manifest)
        named = {name: getattr(self._manifest, name) for name in ("repository", "commit", "licence")}
        return {**named, **about.model_dump()}


def _source_file(path: str, here: Path, wanted: str) -> SourceFile:
    if not here.is_file():
        raise UserError(f"{here} is no file; a manifest's paths are seen from its folder, `at` says where a file lies.")
    with explaining(here):
        found = sha256_file(here)
    if wanted and found != wanted:
        raise UserError(f"{here} has sha256 {found}, but {wanted} was named; it is not the file that was meant.")
    return SourceFile(path=path, sha256=found)


def _check_summary(path: Path, marks: Sequence[tuple[str, bool]]) -> None:
    """Compares the rows of the original's evaluator with the summary that it wrote beside them."""
    if (beside := summary.summary_beside(path)) is not None:
        summary.compare(summary.read(beside), marks)


def _arm_names(part: Results, found: Sequence[str]) -> Mapping[str, ArmName]:
    """File's name of an arm -> ours.

    Raises:
        UserError: if a name is not given, names nothing, or both ways of naming are used.
    """
    if found == [""]:
        if part.arms:
            raise UserError(f"{part.files[0].path} holds one arm; name its channel instead of arms.")
        return {"": part.arm()}
    if part.channel or part.control or part.variant:
        raise UserError(f"{part.files[0].path} holds the arms {', '.join(found)}; name each under arms, see --arm.")
    for arm in found:
        if arm not in part.arms:
            raise UserError(f"{part.files[0].path} holds the arm {arm!r}, which is not named under arms (--arm).")
    for name in part.arms:
        if name not in found:
            near = suggest(name, found)
            raise UserError(f"{part.files[0].path} has no arm {name!r}; it holds {', '.join(found)}.{near}")
    return part.arms


def _questions_of(items: Sequence[Item]) -> Questions:
    subjects = sorted({item.subject for item in items} - {""})
    if subjects and not all(item.subject for item in items):
        raise UserError("Some rows name a subject and some none; all of them or none have to.")
    counts = [item.options for item in items]
    alike = [counts[0]] if len(set(counts)) == 1 else counts
    return Questions(
        ids=[item.id for item in items],
        keys="".join(item.key for item in items),
        subjects=subjects,
        subject=[subjects.index(item.subject) for item in items] if subjects else [],
        options=alike if all(counts) else [],
        cluster={item.id: item.cluster for item in items if item.cluster},
    )


def _arm(name: ArmName, own: Mapping[str, tuple[Row, Answer]], items: Sequence[Item]) -> ReportedArm:
    answered = [(item, own.get(item.id)) for item in items]
    given = [answer for _, answer in own.values()]
    latencies = [None if one is None else one[0].latency_s for _, one in answered]
    tokens = [row.tokens_out for row, _ in own.values() if row.tokens_out is not None]
    return ReportedArm(
        **name.model_dump(),
        predicted=_column(answered, lambda answer: answer.letter),
        predicted_strict=_column(answered, lambda answer: answer.strict) if _texts(given) else "",
        echoes=sum(bool(answer.echo) for answer in given) if _texts(given) else None,
        latency_ms=[_milliseconds(one) for one in latencies] if any(one is not None for one in latencies) else [],
        tokens_out_mean=round(fmean(tokens), 6) if len(tokens) == len(own) else None,
        right=sum(one is not None and one[1].letter == item.key for item, one in answered),
        invalid=sum(answer.letter is None for answer in given),
    )


def _texts(answers: Sequence[Answer]) -> bool:
    return all(answer.echo is not None for answer in answers)


def _column(answered: Sequence[tuple[Item, tuple[Row, Answer] | None]], letter: Callable[[Answer], str | None]) -> str:
    return "".join(NOT_ASKED if one is None else letter(one[1]) or NONE for _, one in answered)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, _TENTHS)


def _figure(line: FigureLine, task: str) -> Figure:
    """A published accuracy as right answers of n.

    Raises:
        UserError: if it says neither or both, or no whole number of right answers gives the percentage.
    """
    if (line.right is None) == (not line.accuracy_percent):
        raise UserError(f"The figure of {line.channel} on {task} has to say right or accuracy_percent, one of them.")
    right = line.right if line.right is not None else _right(line, task)
    if right > line.n:
        raise UserError(f"The figure of {line.channel} on {task} has {right} right of {line.n}.")
    named = {name: getattr(line, name) for name in ("channel", "control", "variant", "n", "invalid", "e2e_s_mean")}
    return Figure(**named, right=right)


def _right(line: FigureLine, task: str) -> int:
    try:
        percent = float(line.accuracy_percent)
    except ValueError:
        percent = math.nan
    digits = len(line.accuracy_percent.partition(".")[2])
    right = round(percent / 100 * line.n) if math.isfinite(percent) else -1
    if right < 0 or abs(100 * right / line.n - percent) > 0.5 * 10**-digits + 1e-9:
        raise UserError(
            f"The figure of {line.channel} on {task} says {line.accuracy_percent}%, which no whole number of {line.n} "
            "answers gives; check n."
        )
    return right
