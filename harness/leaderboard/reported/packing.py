"""The questions of a reported record in little room: numbered ids as runs, subjects by their lengths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from pydantic import Field

from harness.leaderboard.record_format import Questions
from harness.records.schema import Record

Run = tuple[str, int, int]
_NUMBERED = re.compile(r"(.*?)(0|[1-9][0-9]*)")
_NO_NUMBER = -2


class PackedQuestions(Record):
    """The questions of one task, in order."""

    ids: list[str | Run] = Field(description="an id, or the prefix, first and last number of a run of ids")
    keys: str
    subjects: list[tuple[str, int]] = Field([], description="subject and number of questions in a row that it has")
    options: list[int] = Field([], description="as in a board's record")
    cluster: dict[str, str] = Field({}, description="as in a board's record")

    @classmethod
    def of(cls, questions: Questions) -> PackedQuestions:
        """Packs questions."""
        named = [questions.subjects[place] for place in questions.subject]
        return cls(
            ids=list(_runs(questions.ids)),
            keys="".join(questions.keys),
            subjects=[(subject, len(list(group))) for subject, group in groupby(named)],
            options=questions.options,
            cluster=questions.cluster,
        )

    def unpacked(self) -> Questions:
        """Returns the questions as a board's record has them."""
        named = [subject for subject, count in self.subjects for _ in range(count)]
        subjects = sorted(set(named))
        place = {subject: index for index, subject in enumerate(subjects)}
        return Questions(
            ids=list(_ids(self.ids)),
            keys=self.keys,
            subjects=subjects,
            subject=[place[subject] for subject in named],
            options=self.options,
            cluster=self.cluster,
        )


def _runs(ids: Iterable[str]) -> Iterator[str | Run]:
    """Joins ids that count up by one behind one prefix."""
    for run in _counted(ids):
        yield run if run[1] < run[2] else _id(run)


def _counted(ids: Iterable[str]) -> Iterator[Run]:
    """The longest runs; an id without a number is one by itself, behind whose prefix stands none."""
    run: Run | None = None
    for one in ids:
        found = _NUMBERED.fullmatch(one)
        prefix, number = (found[1], int(found[2])) if found else (one, _NO_NUMBER)
        if run and found and (prefix, number) == (run[0], run[2] + 1):
            run = (prefix, run[1], number)
            continue
        if run:
            yield run
        run = (prefix, number, number)
    if run:
        yield run


def _id(run: Run) -> str:
    prefix, number, _ = run
    return prefix if number == _NO_NUMBER else f"{prefix}{number}"


def _ids(packed: Iterable[str | Run]) -> Iterator[str]:
    for one in packed:
        if isinstance(one, str):
            yield one
        else:
            prefix, first, last = one
            yield from (f"{prefix}{number}" for number in range(first, last + 1))
