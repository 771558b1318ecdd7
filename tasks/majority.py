"""The label that is right most often in the splits of a benchmark that are not tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from harness.errors import UserError
from tasks.benchmarks import BENCHMARKS
from tasks.documents import benchmark_documents


def other_keys(name: str, config: str, datasets_dir: str | None = None) -> Mapping[str, list[str]]:
    """Reads the keys of a benchmark's untested splits.

    Args:
        name: in `tasks.benchmarks.BENCHMARKS`.
        config: configuration of the dataset.
        datasets_dir: see `tasks.sources.read_rows`.

    Returns:
        Split -> its keys; splits that are not at hand are left out.
    """
    benchmark = BENCHMARKS[name]
    keys: dict[str, list[str]] = {}
    for split in benchmark.other_splits:
        try:
            documents = benchmark_documents(replace(benchmark, split=split), config, datasets_dir)
        except UserError:
            continue
        keys[split] = [document["key"] for document in documents]
    return keys
