"""The benchmarks: their datasets, pinned revisions, splits and subjects.

The only place that names datasets and revisions: one pinned revision a dataset, one integer version a benchmark. A
changed prompt or filter is a new version; a changed dataset is a new name. Subjects of MMLU and C-Eval are listed with
the categories under which both are usually reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MMLU_SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "stem": (
        "abstract_algebra",
        "anatomy",
        "astronomy",
        "college_biology",
        "college_chemistry",
        "college_computer_science",
        "college_mathematics",
        "college_physics",
        "computer_security",
        "conceptual_physics",
        "electrical_engineering",
        "elementary_mathematics",
        "high_school_biology",
        "high_school_chemistry",
        "high_school_computer_science",
        "high_school_mathematics",
        "high_school_physics",
        "high_school_statistics",
        "machine_learning",
    ),
    "humanities": (
        "formal_logic",
        "high_school_european_history",
        "high_school_us_history",
        "high_school_world_history",
        "international_law",
        "jurisprudence",
        "logical_fallacies",
        "moral_disputes",
        "moral_scenarios",
        "philosophy",
        "prehistory",
        "professional_law",
        "world_religions",
    ),
    "social_sciences": (
        "econometrics",
        "high_school_geography",
        "high_school_government_and_politics",
        "high_school_macroeconomics",
        "high_school_microeconomics",
        "high_school_psychology",
        "human_sexuality",
        "professional_psychology",
        "public_relations",
        "security_studies",
        "sociology",
        "us_foreign_policy",
    ),
    "other": (
        "business_ethics",
        "clinical_knowledge",
        "college_medicine",
        "global_facts",
        "human_aging",
        "management",
        "marketing",
        "medical_genetics",
        "miscellaneous",
        "nutrition",
        "professional_accounting",
        "professional_medicine",
        "virology",
    ),
}


CEVAL_SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "stem": (
        "advanced_mathematics",
        "college_chemistry",
        "college_physics",
        "college_programming",
        "computer_architecture",
        "computer_network",
        "discrete_mathematics",
        "electrical_engineer",
        "high_school_biology",
        "high_school_chemistry",
        "high_school_mathematics",
        "high_school_physics",
        "metrology_engineer",
        "middle_school_biology",
        "middle_school_chemistry",
        "middle_school_mathematics",
        "middle_school_physics",
        "operating_system",
        "probability_and_statistics",
        "veterinary_medicine",
    ),
    "humanities": (
        "art_studies",
        "chinese_language_and_literature",
        "high_school_chinese",
        "high_school_history",
        "ideological_and_moral_cultivation",
        "law",
        "legal_professional",
        "logic",
        "middle_school_history",
        "modern_chinese_history",
        "professional_tour_guide",
    ),
    "social_sciences": (
        "business_administration",
        "college_economics",
        "education_science",
        "high_school_geography",
        "high_school_politics",
        "mao_zedong_thought",
        "marxism",
        "middle_school_geography",
        "middle_school_politics",
        "teacher_qualification",
    ),
    "other": (
        "accountant",
        "basic_medicine",
        "civil_servant",
        "clinical_medicine",
        "environmental_impact_assessment_engineer",
        "fire_engineer",
        "physician",
        "plant_protection",
        "sports_science",
        "tax_accountant",
        "urban_and_rural_planner",
    ),
}


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
        rule: name of the reader in `harness.benchmarks.documents`, which also decides which rows are left out.
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
