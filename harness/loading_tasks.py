"""Tasks by name, as questions: lm-eval builds the requests, we keep one item a question."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.accuracy import Item
from harness.asking import chat_text, decoding_request, scoring_request
from harness.channels.composed import whole_tasks
from harness.config import RunConfig
from harness.config.rules import BUDGETS
from harness.duplicates import with_clusters
from harness.errors import UserError
from harness.prompts import Reading
from harness.records.schema import MajorityLabel
from harness.results.baselines import usual_label
from harness.views import Views, metadata_of, views_of


@dataclass(frozen=True)
class Benchmark:
    """The questions of a run.

    Attributes:
        items: task -> its questions in order.
        groups: name as given -> tasks that it stands for, where these are several.
        loaded: what lm-eval loaded, for its own results file.
        fingerprints: task -> sha256 over its documents.
        versions: task -> version.
        revisions: task -> data set and commit on the hub that its rows are from; local copies and rows that come with
            the task have none.
        majority: task -> the label that is usual in its other splits, or else in what is asked.
        strata: groups whose tasks are strata, parts of fixed size.
    """

    items: dict[str, list[Item]]
    groups: dict[str, list[str]]
    loaded: dict[str, Any]
    fingerprints: dict[str, str]
    versions: dict[str, str]
    revisions: dict[str, str] = field(default_factory=dict)
    majority: dict[str, MajorityLabel] = field(default_factory=dict)
    strata: tuple[str, ...] = ()

    @property
    def all_items(self) -> list[Item]:
        """Every question."""
        return [item for items in self.items.values() for item in items]


def with_datasets_dir(config: RunConfig) -> RunConfig:
    """Puts the environment's folder of local copies into a configuration that names none."""
    from tasks.sources import folder_in_environment

    found = folder_in_environment() if config.datasets_dir is None else None
    return config if found is None else config.model_copy(update={"datasets_dir": found})


def origin_of_data(config: RunConfig) -> str:
    """Who names the folder of local copies: `datasets_dir`, the environment's variable, or nobody."""
    from tasks.sources import DATASETS_DIR_VARIABLE, folder_in_environment

    if config.datasets_dir is not None:
        return "datasets_dir"
    return DATASETS_DIR_VARIABLE if folder_in_environment() else ""


def load_benchmark(config: RunConfig) -> Benchmark:
    """Loads the configured tasks with their documents.

    Raises:
        UserError: a name is unknown, the data is missing or malformed, or a benchmark has another number of questions
            than it declares although no limit is set.
    """
    from tasks import index
    from tasks.counts import check_counts

    items: dict[str, list[Item]] = {}
    groups: dict[str, list[str]] = {}
    loaded: dict[str, Any] = {}
    fingerprints, versions, revisions = {}, {}, {}
    for name in config.tasks:
        members = index.load([name], config.datasets_dir)
        groups[index.label(name)] = [str(t.config.task) for t in members]
        for task in members:
            task_name = str(task.config.task)
            if task_name in items:
                continue
            items[task_name] = _items(task, task_name, config)
            loaded[task_name] = task
            fingerprints[task_name] = _fingerprint([i.document for i in items[task_name]])
            versions[task_name] = str(task.VERSION)
            if revision := _revision(task, config):
                revisions[task_name] = revision
    if config.limit is None:
        check_counts(loaded.values())
    majority = _majority(items, groups, loaded, config.datasets_dir)
    strata = tuple(name for name in groups if index.stratified(name))
    return Benchmark(with_clusters(items), groups, loaded, fingerprints, versions, revisions, majority, strata)


def _revision(task: Any, config: RunConfig) -> str:
    commit = (task.config.metadata or {}).get("dataset_revision")
    local = with_datasets_dir(config).datasets_dir
    return "" if commit is None or local else f"{task.config.dataset_path}@{commit}"


def _majority(
    items: Mapping[str, Sequence[Item]],
    groups: Mapping[str, Sequence[str]],
    loaded: Mapping[str, Any],
    datasets_dir: str | None,
) -> dict[str, MajorityLabel]:
    """The usual label of every task; tasks that are one whole have one label."""
    labels: dict[str, MajorityLabel] = {}
    for whole in whole_tasks(groups, list(items)):
        splits: dict[str, list[str]] = {}
        for task in whole:
            for split, keys in _other_keys(loaded[task], datasets_dir).items():
                splits.setdefault(split, []).extend(keys)
        keys = [key for counted in splits.values() for key in counted]
        asked = [str(item.document["key"]) for task in whole for item in items[task]]
        label = MajorityLabel(label=usual_label(keys or asked), source=", ".join(splits) or "test")
        labels |= dict.fromkeys(whole, label)
    return labels


def _other_keys(task: Any, datasets_dir: str | None) -> Mapping[str, list[str]]:
    from tasks.majority import other_keys

    named = task.config.dataset_kwargs or {}
    return other_keys(named["benchmark"], named["dataset_config"], datasets_dir) if "benchmark" in named else {}


def _items(task: Any, name: str, config: RunConfig) -> list[Item]:
    asked = sample_of(len(task.eval_docs), config.limit, config.seed, name)
    task.build_all_requests(
        samples=asked,
        rank=0,
        world_size=1,
        apply_chat_template=config.chat,
        chat_template=chat_text if config.chat else None,
        tokenizer_name="harness",
    )
    by_doc: dict[int, list[Any]] = defaultdict(list)
    for instance in task.instances:
        by_doc[asked[instance.doc_id]].append(instance)
    metadata, views = metadata_of(task), views_of(task)
    found = (_item(name, position, by_doc[position], metadata, views, config) for position in sorted(by_doc))
    items = [replace(item, lm_eval_task=task) for item in found]
    if views is not None and not any(item.request.query.sharer_view for item in items):
        raise UserError(f"Task {name!r} gives its sharer a view of its own, but it is the receiver's in every row.")
    return items


def sample_of(size: int, limit: int | None, seed: int, name: str) -> list[int]:
    """Draws the questions of a task that are asked, in their order.

    A smaller sample is part of a larger one of the same seed. The first questions of a file are no sample: their keys
    and subjects are often sorted.

    Args:
        size: questions of the task.
        limit: how many are asked; None: all.
        seed: of the draw.
        name: of the task, so that equal files are drawn from apart.
    """
    order = list(range(size))
    if limit is None or limit >= size:
        return order
    random.Random(f"{seed}/{name}").shuffle(order)  # noqa: S311 - reproducible, not secret
    return sorted(order[:limit])


def _item(
    name: str,
    position: int,
    instances: Sequence[Any],
    metadata: dict[str, Any],
    views: Views | None,
    config: RunConfig,
) -> Item:
    ordered = sorted(instances, key=lambda i: i.idx)
    document = dict(ordered[0].doc)
    missing = {"id", "labels", "key"} - set(document)
    if missing:
        raise UserError(
            f"Task {name!r} yields documents without {', '.join(sorted(missing))}; this command runs tasks with "
            "canonical documents, other lm-eval tasks run through python -m harness.lm_eval."
        )
    reading = Reading(thinking=config.enable_thinking)
    if ordered[0].request_type == "loglikelihood":
        request = scoring_request([i.args for i in ordered], document, metadata, reading, views)
    else:
        context, arguments = ordered[0].args
        # A length that is asked for comes before the task's own, under whichever of its names.
        own = {k: v for k, v in arguments.items() if k not in BUDGETS or not {*BUDGETS} & {*config.gen_kwargs}}
        arguments = {**own, **config.gen_kwargs}
        if config.max_new_tokens is not None:
            arguments = {k: v for k, v in arguments.items() if k not in BUDGETS}
            arguments["max_gen_toks"] = config.max_new_tokens
        request = decoding_request(context, arguments, document, metadata, reading, views)
        labels = tuple(map(str, document["labels"]))
        request = replace(request, query=replace(request.query, labels=labels))
    return Item(name, position, document, request, tuple(ordered))


def _fingerprint(documents: Sequence[dict[str, Any]]) -> str:
    text = json.dumps(documents, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
