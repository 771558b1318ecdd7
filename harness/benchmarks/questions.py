"""The questions of a run: loaded from lm-eval tasks by name, one item a question, duplicates in one cluster.

lm-eval builds the requests; one item a question is kept. A question that several subjects or tasks of a run ask is in
one cluster for the statistics.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.benchmarks.duplicates import question_of, shared_questions
from harness.benchmarks.requests import chat_text, decoding_request, scoring_request
from harness.benchmarks.row_checks import check_rows, check_targets
from harness.benchmarks.task_data import commit_read, is_open
from harness.benchmarks.task_mistakes import said_of
from harness.benchmarks.views import Views, metadata_of, views_of
from harness.config import RunConfig
from harness.config.validation import BUDGETS
from harness.errors import UserError
from harness.inference.types import Request
from harness.models.chat import Reading, fingerprint_text
from harness.records.schema import MajorityLabel, usual_label, whole_tasks


@dataclass(frozen=True)
class Item:
    """One question of a task.

    Attributes:
        document: canonical, see `tasks`.
        instances: lm-eval's requests for it, in order.
        lm_eval_task: scores its answers; None where they are not scored.
        request: what is asked of a channel.
        rendered_sha256: of its prompt as the models of a run read it, see `harness.evaluation.prompt_record`; "" before
            that.
        cluster: see `harness.benchmarks.questions`.
    """

    task: str
    position: int
    document: dict[str, Any]
    request: Request
    instances: tuple[Any, ...] = ()
    lm_eval_task: Any = None
    rendered_sha256: str = ""
    cluster: str = ""

    @property
    def doc_id(self) -> str:
        """The question's own id, or its place."""
        return str(self.document.get("id", self.position))

    @property
    def prompt_sha256(self) -> str:
        """Of everything that is asked, as the models read it."""
        r = self.request
        extra = [r.options, r.max_new_tokens, r.stops, r.query.t2t_prompt, r.query.question or ""]
        extra += [self.rendered_sha256] if self.rendered_sha256 else []
        if r.query.sharer_view is not None:
            view = r.query.sharer_view
            extra += [fingerprint_text(view.conversation, [view.question, view.context])]
        return hashlib.sha256(fingerprint_text(r.query.receiver, extra).encode()).hexdigest()


def with_clusters(items: Mapping[str, list[Item]]) -> dict[str, list[Item]]:
    """Names one cluster for all items that ask the same question.

    Args:
        items: task -> its questions.

    Returns:
        The same; a question that stands in several subjects has the first of them by name as its cluster.
    """
    shared = shared_questions((item.document, _subject(item)) for item in _all(items))
    return {
        task: [replace(item, cluster=shared.get(question_of(item.document), "")) for item in members]
        for task, members in items.items()
    }


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
        unpinned: tasks whose files name no commit of their data set on the hub.
    """

    items: dict[str, list[Item]]
    groups: dict[str, list[str]]
    loaded: dict[str, Any]
    fingerprints: dict[str, str]
    versions: dict[str, str]
    revisions: dict[str, str] = field(default_factory=dict)
    majority: dict[str, MajorityLabel] = field(default_factory=dict)
    strata: tuple[str, ...] = ()
    unpinned: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Task -> questions that it has, asked or not."""
        return {name: len(task.eval_docs) for name, task in self.loaded.items()}

    @property
    def all_items(self) -> list[Item]:
        """Every question."""
        return [item for items in self.items.values() for item in items]


def with_datasets_dir(config: RunConfig) -> RunConfig:
    """Puts the environment's folder of local copies into a configuration that names none."""
    from harness.benchmarks.sources import folder_in_environment

    found = folder_in_environment() if config.datasets_dir is None else None
    return config if found is None else config.model_copy(update={"datasets_dir": found})


def origin_of_data(config: RunConfig) -> str:
    """Who names the folder of local copies: `datasets_dir`, the environment's variable, or nobody."""
    from harness.benchmarks.sources import DATASETS_DIR_VARIABLE, folder_in_environment

    if config.datasets_dir is not None:
        return "datasets_dir"
    return DATASETS_DIR_VARIABLE if folder_in_environment() else ""


def load_benchmark(config: RunConfig) -> Benchmark:
    """Loads the configured tasks with their documents.

    Raises:
        UserError: a name is unknown, the data is missing or malformed, or a benchmark has another number of questions
            than it declares although no limit is set.
    """
    from harness.benchmarks import registry as index
    from harness.benchmarks.registry import check_counts

    index.check_own_names(config.tasks)
    items: dict[str, list[Item]] = {}
    groups: dict[str, list[str]] = {}
    loaded: dict[str, Any] = {}
    fingerprints, versions, revisions = {}, {}, {}
    for name in config.tasks:
        members = index.load([name], config.datasets_dir)
        groups[index.recorded_name(name)] = [str(t.config.task) for t in members]
        for task in members:
            task_name = str(task.config.task)
            if task_name in items:
                continue
            items[task_name] = _items(task, task_name, config, index.own_file(name))
            loaded[task_name] = task
            fingerprints[task_name] = _fingerprint([i.document for i in items[task_name]])
            versions[task_name] = str(task.VERSION)
            if revision := _revision(task, config):
                revisions[task_name] = revision
    if config.limit is None:
        check_counts(loaded.values())
    majority = _majority(items, groups, loaded, config.datasets_dir)
    strata = tuple(name for name in groups if index.has_strata(name))
    unpinned = tuple(name for name, task in loaded.items() if is_open(task))
    return Benchmark(
        with_clusters(items), groups, loaded, fingerprints, versions, revisions, majority, strata, unpinned
    )


def _revision(task: Any, config: RunConfig) -> str:
    commit = (task.config.metadata or {}).get("dataset_revision")
    if commit is None:
        commit = commit_read(task)
    elif with_datasets_dir(config).datasets_dir:
        return ""
    return f"{task.config.dataset_path}@{commit}" if commit else ""


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
    from harness.benchmarks.documents import other_keys

    named = task.config.dataset_kwargs or {}
    return other_keys(named["benchmark"], named["dataset_config"], datasets_dir) if "benchmark" in named else {}


def _items(task: Any, name: str, config: RunConfig, file: Path | None) -> list[Item]:
    with said_of(file):
        by_doc = _instances(task, name, config)
    rows = [(position + 1, by_doc[position][0].doc) for position in sorted(by_doc)]
    where = f"task {name!r}{f' ({file})' if file else ''}"
    check_rows(rows, where)
    if file is not None:
        with said_of(file):
            check_targets(task, rows, where)
    metadata, views = metadata_of(task), views_of(task)
    found = (_item(name, position, by_doc[position], metadata, views, config) for position in sorted(by_doc))
    items = [replace(item, lm_eval_task=task) for item in found]
    if views is not None and not any(item.request.query.sharer_view for item in items):
        raise UserError(f"Task {name!r} gives its sharer a view of its own, but it is the receiver's in every row.")
    return items


def _instances(task: Any, name: str, config: RunConfig) -> dict[int, list[Any]]:
    """Place of a question -> lm-eval's requests for it."""
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
    return by_doc


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


def _all(items: Mapping[str, list[Item]]) -> list[Item]:
    return [item for members in items.values() for item in members]


def _subject(item: Item) -> str:
    return f"{item.task}/{item.document.get('subject', '')}"
