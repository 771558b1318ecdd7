"""Writes the task files of every benchmark: `python -m harness.benchmarks.generate`.

Guarantees that the files follow from `harness.benchmarks.definitions` and nothing else: the same table gives the
same bytes, and files that no longer follow from it are removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.benchmarks.definitions import BENCHMARKS, Benchmark
from harness.paths import TASKS


@dataclass(frozen=True)
class Form:
    """One way of asking: the template it includes, and metric -> filters of what a group averages."""

    suffix: str
    template: str
    metrics: Mapping[str, tuple[str, ...]]


_PARSERS = ("paper", "strict")

FORMS = (
    Form("", "_generate_yaml", {"acc": _PARSERS, "invalid": _PARSERS, "parsers_disagree": ("both",)}),
    Form("_letters", "_letters_yaml", {"acc": ("none",)}),
)


def planned_files() -> dict[Path, str]:
    """Returns path below the tasks folder -> contents, for every generated file."""
    return {
        path: yaml.safe_dump(dict(contents), sort_keys=False, allow_unicode=True, width=100)
        for benchmark in BENCHMARKS.values()
        for form in FORMS
        for path, contents in _files(benchmark, form)
    }


def main() -> None:
    """Writes what is planned and removes stale task files beside it."""
    files = planned_files()
    for path in stale_files(files):
        (TASKS / path).unlink()
    for path, text in files.items():
        (TASKS / path).parent.mkdir(parents=True, exist_ok=True)
        (TASKS / path).write_text(text, encoding="utf-8")


def stale_files(files: Mapping[Path, str]) -> list[Path]:
    """Returns the task files in generated folders that are not planned."""
    folders = {path.parts[0] for path in files}
    present = (found.relative_to(TASKS) for folder in folders for found in (TASKS / folder).rglob("*.yaml"))
    return sorted(set(present) - set(files))


def _files(benchmark: Benchmark, form: Form) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    name = benchmark.name + form.suffix
    headline = Path(benchmark.folder, f"{name}.yaml")
    if not benchmark.subjects:
        yield headline, _task(benchmark, form, name, benchmark.config, depth=1)
        return
    categories = {category: f"{benchmark.name}_{category}{form.suffix}" for category in benchmark.subjects}
    yield headline, _group(benchmark, form, name, list(categories.values()))
    for category, subjects in benchmark.subjects.items():
        members = {subject: f"{benchmark.name}_{subject}{form.suffix}" for subject in subjects}
        path = Path(benchmark.folder, name, f"_{category}.yaml")
        yield path, _group(benchmark, form, categories[category], list(members.values()))
        for subject, member in members.items():
            path = Path(benchmark.folder, name, f"{subject}.yaml")
            yield path, _task(benchmark, form, member, subject, depth=2)


class _Function(str):
    """A Python function that a task file names."""


yaml.SafeDumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))


def _task(benchmark: Benchmark, form: Form, name: str, config: str, depth: int) -> Mapping[str, Any]:
    return {
        "include": "../" * depth + form.template,
        "task": name,
        "dataset_path": benchmark.source.hub_id,
        "dataset_name": config,
        "dataset_kwargs": {"benchmark": benchmark.name, "dataset_config": config},
        "test_split": benchmark.split,
        **(
            {"doc_to_text": _Function("harness.benchmarks.lm_eval_functions.doc_to_released_text")}
            if benchmark.released_sentence
            else {}
        ),
        "metadata": _metadata(benchmark),
    }


def _group(benchmark: Benchmark, form: Form, name: str, members: list[str]) -> Mapping[str, Any]:
    averaged = [
        {"metric": metric, "filter_list": list(filters), "aggregation": "mean", "weight_by_size": True}
        for metric, filters in form.metrics.items()
    ]
    return {"group": name, "task": members, "aggregate_metric_list": averaged, "metadata": _metadata(benchmark)}


def _metadata(benchmark: Benchmark) -> Mapping[str, Any]:
    return {
        "version": benchmark.version,
        "dataset_revision": benchmark.source.revision,
        "licence": benchmark.source.licence,
        "kept": benchmark.kept,
        "benchmark_rows": benchmark.rows,
    }


if __name__ == "__main__":
    main()
