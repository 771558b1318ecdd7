"""The shape of everything that a run leaves behind: one source for files, checks and JSON Schema.

A run is a folder: `run.json` (one `RunRecord`), `samples.jsonl` (one `Sample` a line: question x channel x control) and
`timings.jsonl` (one `Timing` a line: a question timed alone). Further processes of a run that has not ended well have
their samples in `samples-<rank>.jsonl`. Aggregates in `run.json` are a convenience; they can always be computed again
from the journals. Files of an older `schema_version` load for ever, newer ones are refused.

A record also tells which references of a run are open, that is, name no commit, and which commits they stood for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 3


Status = Literal["started", "success", "error", "cancelled"]

Kind = Literal["generate", "letters"]


class Record(BaseModel):
    """Frozen, strict about unknown fields: a misspelt field is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Failure(Record):
    """Why a sample has no answer."""

    type: str
    message: str
    trace: str = ""


class Sample(Record):
    """One question answered through one channel under one control ("" = the message as sent)."""

    schema_version: int = SCHEMA_VERSION
    task: str
    doc_id: str
    position: int = Field(description="index of the question in its task, from 0")
    channel: str
    control: str = ""
    kind: Kind
    prompt_sha256: str = Field(description="of prompt as read, options and generation settings")
    subject: str = ""
    category: str = ""
    cluster: str = Field("", description="task/subject that it counts for where several ask it; empty = its own")
    labels: list[str] = []
    key: str = Field(description="the right label")
    text: str | None = Field(None, description="what was generated; None for letters")
    loglikelihoods: list[float] | None = Field(None, description="nats, one an option; None for generate")
    predicted: str | None = Field(None, description="label by the paper's parser, or by loglikelihood; None = invalid")
    predicted_strict: str | None = None
    correct: bool | None = Field(None, description="None exactly when there is an error")
    correct_strict: bool | None = None
    metrics: dict[str, float] = Field({}, description="what the task's own process_results says")
    entropy: float | None = Field(None, description="nats, over the labels or the first token; the routing score")
    message_text: str | None = Field(None, description="what the sharer wrote, for text channels")
    payload_bytes: int = 0
    prompt_tokens: int = 0
    tokens_out: int = 0
    routed_to: str | None = None
    error: Failure | None = None

    @property
    def done(self) -> bool:
        """A sample is done when it has a score and no error."""
        return self.error is None and self.correct is not None

    @property
    def arm(self) -> tuple[str, str]:
        """Channel and control."""
        return (self.channel, self.control)


class Timing(Record):
    """One question answered alone (batch 1, after warm-up), with the seconds of every stage."""

    schema_version: int = SCHEMA_VERSION
    task: str
    doc_id: str
    position: int
    channel: str
    control: str = ""
    round: int = Field(0, description="interleaving round; channels of one round ran next to each other")
    stages_s: dict[str, float] = Field(
        description="sharer_prefill, sharer_decode, message_transfer, fusion, receiver_prefill, receiver_decode"
    )
    ttft_s: float
    e2e_s: float
    tokens_out: int
    equal_length: bool = Field(False, description="True when every channel was made to decode the same number")
    same_answer: bool | None = Field(None, description="equals the answer of the accuracy pass; None = not compared")
    payload_bytes: int = 0
    cpu_s: float | None = Field(None, description="processor seconds of this process meanwhile, over all its threads")
    load: float | None = Field(
        None, description="cores of the machine that were busy meanwhile, own work included, in steps of a clock tick"
    )


class Hardware(Record):
    """What the run ran on; latencies of different fingerprints are never compared."""

    cpu: str = ""
    cores: int = 0
    threads: int = 0
    memory_bytes: int = 0
    gpu: str = ""
    gpu_count: int = 0
    gpu_memory_bytes: int = 0
    driver: str = ""
    cuda: str = ""
    clocks: str = ""
    platform: str = ""
    fingerprint: str = ""


class Git(Record):
    """The harness's own commit; empty outside a checkout."""

    commit: str = ""
    dirty: bool | None = None


class ModelInfo(Record):
    """Which weights spoke."""

    role: str
    reference: str
    revision: str = Field("", description="commit on the hub of the model, or of the base model of an adapter")
    base: str = Field("", description="reference of the model under an adapter")
    adapter_revision: str = Field("", description="commit on the hub of the adapter")
    fingerprint: str = Field(description="sha256 over names, sizes and contents of the weight files")
    architecture: str = ""
    parameters: int = 0
    adapter_parameters: int = Field(0, description="of an adapter that is merged into the weights")
    training: dict[str, str | int | float | bool] = Field({}, description="of that adapter, as its file says")
    dtype: str = ""
    weights_bytes: int = 0
    devices: dict[str, str] = Field({}, description="module -> device of a model that is spread over devices")
    stop_tokens: dict[str, int] = Field({}, description="tokens that end an answer, with their ids")
    loading: dict[str, str] = Field(
        {}, description="which files were read, and what was used where they say nothing or something unusable"
    )
    self_check: str = Field("", description="how it is read so that its numbers are those of a plain forward call")


class Processes(Record):
    """Who did the work of a run; answers do not depend on it, latencies are of one process alone."""

    ranks: int = 1
    nodes: int = 1
    hardware: list[str] = Field([], description="hardware fingerprints of all ranks, each once, the first rank's first")
    latency: str = Field("rank 0", description="who was timed, and what the others did meanwhile")


class MajorityLabel(Record):
    """The label that is right most often in a task: what a constant answer gives."""

    label: str
    source: str = Field(description="the splits that it was counted in; `test` where no other was at hand")


class Engine(Record):
    """Somebody else's engine that ran the models of a run, through lm-eval."""

    backend: str = Field(description="lm-eval's name of it")
    lm_eval: str = Field(description="version")
    receiver_args: str = ""
    sharer_args: str = ""


class Throughput(Record):
    """Questions a second of one channel through such an engine: batched, no latency; of this session alone."""

    questions: int
    seconds: float
    questions_per_second: float
    conditions: str


class ResultRow(Record):
    """One line of the results table: a task through a channel under a control."""

    task: str
    channel: str
    control: str = ""
    n: int = Field(description="questions asked, errors included")
    errors: int
    invalid: int
    accuracy: float = Field(description="right answers / n")
    accuracy_low: float
    accuracy_high: float
    accuracy_strict: float | None = None
    parsers_disagree: int = 0
    echoes: int | None = Field(None, description="answers that repeat the labels of the instruction, such as A/B/C/D")
    letters: dict[str, int] = {}
    clusters: int = 0
    ttft_s_p50: float | None = None
    ttft_s_p90: float | None = None
    e2e_s_p50: float | None = None
    e2e_s_p90: float | None = None
    e2e_s_p99: float | None = None
    tpot_s_p50: float | None = None
    stages_s_p50: dict[str, float] = {}
    stages_s_p90: dict[str, float] = {}
    latency_n: int = 0
    payload_bytes_mean: float | None = None
    tokens_out_mean: float | None = None
    variant: str = Field("", description="what was chosen inside the channel, such as the T2T variant")
    model_pass: bool = Field(True, description="False: computed from the questions and the answers of other rows")


class RunRecord(Record):
    """`run.json`."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    status: Status
    started_at: str = Field(description="ISO 8601, UTC")
    finished_at: str | None = None
    command: list[str] = []
    job: str = Field("", description="CI or batch job that the run was part of; empty = not known")
    identity: str = Field(description="sha256 over every identity field")
    identity_fields: dict[str, Any] = {}
    config: dict[str, Any] = {}
    models: list[ModelInfo] = []
    fusers: list[dict[str, Any]] = Field(
        [], description="role, reference, revision (commit on the hub), fingerprint, size, training as its file says"
    )
    datasets: dict[str, str] = Field({}, description="task -> sha256 over its canonical rows")
    datasets_from: str = Field(
        "", description="who named config.datasets_dir: `datasets_dir` or HARNESS_DATASETS_DIR; empty = the hub"
    )
    dataset_revisions: dict[str, str] = Field({}, description="task -> data set and commit on the hub that was read")
    unpinned: list[str] = Field([], description="tasks whose files name no commit of their data set")
    task_versions: dict[str, str] = {}
    groups: dict[str, list[str]] = Field({}, description="task as named in the run -> the tasks that it stands for")
    majority: dict[str, MajorityLabel] = Field({}, description="task -> its majority label")
    strata: list[str] = Field([], description="groups whose tasks are strata: parts whose sizes are fixed by design")
    packages: dict[str, str] = {}
    environment: dict[str, str] = Field({}, description="switches that change numbers")
    hardware: Hardware = Field(Hardware(), description="of the first process, which is the one that is timed")
    processes: Processes = Processes()
    prompts: dict[str, str] = Field({}, description="how they became tokens: seam, enable_thinking and its effect")
    engine: Engine | None = Field(None, description="None where our own engine ran the models")
    throughput: dict[str, Throughput] = Field({}, description="channel -> questions a second through such an engine")
    git: Git = Git()
    counters: dict[str, dict[str, int]] = Field({}, description="arm -> forwards, prompt_tokens, decoded_tokens, ...")
    peak_memory_bytes: dict[str, int] = Field({}, description="`process`: of the largest; of several, `rank N` each")
    fusion: list[dict[str, Any]] = Field([], description="per layer: layer, gates, mean weights")
    resumed: int = Field(0, description="samples taken over from an earlier session of this run")
    warnings: list[str] = []
    error: Failure | None = None
    results: list[ResultRow] = []


def whole_tasks(groups: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> Iterator[list[str]]:
    """Yields the tasks that are one whole, largest groups first, every task once."""
    seen: set[str] = set()
    wholes = [*sorted(groups.values(), key=len, reverse=True), *([task] for task in tasks)]
    for whole in wholes:
        left = [task for task in whole if task not in seen]
        seen.update(left)
        if left:
            yield left


def usual_label(keys: Iterable[str]) -> str:
    """The label that is right most often; of several the first by name."""
    counts = Counter(keys)
    return min(counts, key=lambda label: (-counts[label], label))


# Begins the reference of a model or fuser that was given as an object; its digest follows behind an @.
IN_MEMORY = "in-memory:"

_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a whole commit, which never moves, and not a branch, a tag or a short form."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def recorded_commits(run: RunRecord) -> dict[str, str]:
    """Returns reference without a commit -> commit that the run read."""
    return dict(_open(run))


def open_pins(run: RunRecord) -> list[str]:
    """Names a run's references without a commit, each once, with what they stood for."""
    resolved = [f"{name} ({commit[:12]})" for name, commit in dict(_open(run)).items()]
    # A model behind an engine has no digest of ours; without a commit nobody knows which weights answered.
    unseen = [m for m in run.models if not m.fingerprint and not is_commit(m.revision)]
    served = [f"{m.reference} (commit unknown, behind an engine)" for m in unseen]
    rows = [run.dataset_revisions[task].partition("@") for task in run.unpinned if task in run.dataset_revisions]
    objects = [f"{name} (an object in memory)" for name in objects_of(run)]
    read = [f"{name} ({commit[:12]})" for name, _, commit in rows]
    return [*resolved, *dict.fromkeys(read), *dict.fromkeys(served), *objects]


def objects_of(run: RunRecord) -> list[str]:
    """Names a run's models and fusers that were objects in memory, each once: nobody can load them again."""
    named = [*(m.reference for m in run.models), *(str(fuser.get("reference", "")) for fuser in run.fusers)]
    return [name for name in dict.fromkeys(named) if name.startswith(IN_MEMORY)]


def _open(run: RunRecord) -> Iterator[tuple[str, str]]:
    for name, commit in _all(run):
        if is_commit(commit) and not is_commit(name.partition("@")[2]):
            yield name, commit


def _all(run: RunRecord) -> Iterator[tuple[str, str]]:
    for model in run.models:
        if model.adapter_revision:
            yield model.reference, model.adapter_revision
        yield model.base or model.reference, model.revision
    for fuser in run.fusers:
        yield str(fuser.get("reference", "")).partition(":")[0], str(fuser.get("revision", ""))
