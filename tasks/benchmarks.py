"""Which rows of which dataset each benchmark asks: the only place that names datasets and revisions.

Guarantees one pinned revision a dataset and one integer version a benchmark. A changed prompt or
filter is a new version; a changed dataset is a new name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.subjects import CEVAL_SUBJECTS, MMLU_SUBJECTS


@dataclass(frozen=True)
class Source:
    """A dataset on the hub at a fixed commit."""

    hub_id: str
    revision: str
    licence: str


OPENBOOKQA = Source("allenai/openbookqa", "388097ea7776314e93a529163e0fea805b8a6454", "Apache-2.0")
ARC = Source("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453", "CC-BY-SA-4.0")
MMLU_REDUX = Source("edinburgh-dawg/mmlu-redux-2.0", "372ea425445d51e1ba1188c56e5e893f8138621f", "CC-BY-4.0")
CEVAL = Source("ceval/ceval-exam", "617524a00b307ff6f9933702f724131fe12ca7ce", "CC-BY-NC-SA-4.0")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: a split of a dataset, read by one rule.

    Attributes:
        name: task name of the paper's form; the letters form adds `_letters`.
        folder: folder of its task files.
        source: where the rows come from.
        split: the only split that is loaded.
        rule: name of the reader in `tasks.rows`, which also decides which rows are left out.
        rows: documents that remain of the whole split.
        kept: what remains, in words.
        config: the dataset's configuration; empty where each subject is one.
        subjects: category -> subjects, in reporting order; empty without subjects.
        version: raised with every change of prompt or filter.
        other_splits: labelled splits that are not tested; what label is usual is counted there.
        released_sentence: ask for "A/B/C/D" however many options a row has, as the released evaluator does; only
            where every key is one of the four.
    """

    name: str
    folder: str
    source: Source
    split: str
    rule: str
    rows: int
    kept: str
    config: str = ""
    subjects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    version: int = 1
    other_splits: tuple[str, ...] = ()
    released_sentence: bool = False

    def category_of(self, subject: str) -> str:
        """Returns the category that lists the subject, or an empty string."""
        return next((category for category, members in self.subjects.items() if subject in members), "")


_ALL = (
    Benchmark(
        "openbookqa",
        "openbookqa",
        OPENBOOKQA,
        "test",
        "openbookqa",
        500,
        "all rows",
        config="main",
        other_splits=("train", "validation"),
    ),
    Benchmark(
        "arc_challenge",
        "arc_challenge",
        ARC,
        "test",
        "arc",
        1150,
        "rows whose key is A-D: 1150 of 1172, as in the paper; the other 22 have digits for labels",
        config="ARC-Challenge",
        other_splits=("train", "validation"),
        released_sentence=True,
    ),
    Benchmark(
        "mmlu_redux",
        "mmlu_redux",
        MMLU_REDUX,
        "test",
        "mmlu_redux_paper",
        5632,
        "the paper's filter: 5632 of 5700, without no_correct_answer and expert; "
        "the corrected key counts for wrong_groundtruth where there is one",
        subjects=MMLU_SUBJECTS,
        version=2,
    ),
    Benchmark(
        "mmlu_redux_ok",
        "mmlu_redux",
        MMLU_REDUX,
        "test",
        "mmlu_redux_ok",
        5330,
        "rows annotated ok: 5330 of 5700, as lm-eval's own mmlu_redux; not comparable with the paper",
        subjects=MMLU_SUBJECTS,
    ),
    Benchmark(
        "ceval", "ceval", CEVAL, "test", "ceval", 12342, "all rows of the labelled test split", subjects=CEVAL_SUBJECTS
    ),
    Benchmark(
        "ceval_val",
        "ceval",
        CEVAL,
        "val",
        "ceval",
        1346,
        "all rows of the validation split; not comparable with the paper",
        subjects=CEVAL_SUBJECTS,
    ),
)
BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
