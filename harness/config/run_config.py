"""The configuration of a run in one frozen object, under the names of the command line's flags.

Empty `receiver`, `sharers`, `fusers` and `tasks` mean the embedded pair and its tasks; the caller that starts the run
fills them in. A configuration that contradicts itself is refused on construction.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.config import validation
from harness.config.fields import (
    MARGIN_POINTS,
    Attention,
    Channels,
    Count,
    CountOrZero,
    Device,
    DeviceMap,
    Dtype,
    Fraction,
    GenKwargs,
    Identity,
    Margin,
    Names,
    Runtime,
)
from harness.config.flags import Also, Each, Front, Off, Section
from harness.config.validation import OWN


class RunConfig(BaseModel):
    """One run. Build it from outside input with `harness.config.build`, which explains errors in a sentence."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    # the pair
    receiver: Identity[Annotated[str, Section("the pair"), Front()]] = ""
    """Model that answers: hub id, folder or GGUF file; empty = the embedded pair."""
    peft: Identity[Annotated[str, Field(min_length=1)] | None] = None
    """Adapter that is merged into the receiver, in every channel."""
    max_length: Identity[Count | None] = None
    """Context of the receiver in tokens, where it should be shorter than the model's own."""
    sharers: Identity[Annotated[Names, Also("sharer"), Each(), Front()]] = ()
    """Models that send messages, in order."""
    fusers: Identity[Annotated[Names, Also("fuser"), Each(), Front()]] = ()
    """Fuser folders or hub ids, one a sharer, in its order."""
    self_fuser: Identity[str | None] = None
    """Fuser of the receiver with itself, for the `self` control."""
    tuned: Identity[Annotated[str | None, Front()]] = None
    """The receiver fine-tuned, an adapter's folder or a model; adds the channel `tuned`."""
    receiver_chat_template: Identity[str | None] = None
    """Jinja file or `simple` in place of the receiver's own chat template."""
    sharer_chat_template: Identity[str | None] = None
    """Jinja file or `simple` in place of the sharers' own chat template."""
    trust_remote_code: Identity[bool] = False
    """Run model code that comes with the weights."""

    # who runs the models
    backend: Identity[Annotated[str, Field(min_length=1), Section("who runs the models")]] = OWN
    """Engine that runs the models: harness, or any of lm-eval's, such as vllm, sglang or local-completions."""
    receiver_args: Identity[str] = ""
    """lm-eval's model_args of that engine for the receiver, such as `base_url=http://host:8000/v1/completions`."""
    sharer_args: Identity[str] = ""
    """The same for the sharer."""

    # the protocol
    channels: Identity[Annotated[Channels, Also("channel"), Section("the protocol"), Front()]] = Field(
        default_factory=validation.usual_channels
    )
    """What is compared: `name[:option=value]...`; default: all that the given models allow."""
    controls: Identity[Annotated[Names, Also("control"), Front()]] = ()
    """Ways to destroy a message's content; default mismatched and mean where a channel carries messages."""
    tasks: Identity[Annotated[Names, Also("task"), Front()]] = ()
    """Benchmarks; `ls` lists them, a YAML file is one of your own."""
    datasets_dir: Runtime[str | None] = None
    """Folder with local copies of the data sets, read in place of the hub."""
    limit: Identity[Annotated[Count | None, Front()]] = None
    """Only so many questions of a task, drawn by the seed."""
    chat: Identity[Annotated[bool, Also("chat_template"), Off("Ask in plain text, without the chat template.")]] = True
    """Render prompts through the chat template."""
    enable_thinking: Identity[bool] = False
    """Let chat templates that know such a switch open a chain of thought; the paper's protocol has it off."""
    max_new_tokens: Identity[Count | None] = None
    """New tokens of an answer in place of the task's own number."""
    gen_kwargs: Identity[GenKwargs] = {}
    """Generation settings that override the task's."""
    calibration_samples: Identity[Count] = 64
    """Questions whose messages make up the mean message."""
    seed: Identity[Annotated[CountOrZero, Front()]] = 0
    """Of everything random."""

    # the engine
    device: Identity[Annotated[Device, Section("the engine"), Front()]] = "auto"
    """auto, cpu, cuda or cuda:N."""
    device_map: Runtime[DeviceMap | None] = None
    """Spread each model over devices: auto, balanced, balanced_low_0, sequential or a map from module to device."""
    tensor_parallel: Runtime[bool] = False
    """Split every layer of each model over the processes that torchrun started."""
    dtype: Identity[Annotated[Dtype, Front()]] = "auto"
    """Number format of the models; auto = bfloat16 on GPU, float32 on CPU."""
    attention: Identity[Attention] = "sdpa"
    """Attention kernel."""
    batch_size: Runtime[Annotated[Count, Front()]] = 8
    """Questions answered at once; in the accuracy pass only."""
    max_batch_tokens: Runtime[Count | None] = None
    """Upper bound on tokens, padding included, of one batch."""
    max_error_rate: Runtime[Fraction] = 0.01
    """The run fails where a larger part of its samples are errors."""
    margin: Runtime[Margin] = MARGIN_POINTS
    """Points of accuracy below which two channels count as the same, where a test shows that they differ by less."""

    # the latency pass
    latency_samples: Runtime[Annotated[CountOrZero, Section("the latency pass"), Front()]] = 20
    """Questions of a task that are timed alone; 0 = no timing."""
    latency_warm_up: Runtime[CountOrZero] = 3
    """Questions answered before timing starts, through every channel."""
    latency_equal_tokens: Runtime[Count | None] = None
    """Time once more with so many tokens decoded in every channel, at least 2."""

    job: Runtime[Annotated[str, Field(min_length=1)] | None] = None
    """Name of the job that this run is part of: `check` compares seconds within one; default: as the CI says."""

    # what is left behind
    output_path: Runtime[Annotated[str | None, Section("what is left behind"), Front()]] = None
    """Folder of the run."""
    leaderboards_dir: Runtime[str | None] = None
    """Folder of the leaderboards to update."""
    resume: Runtime[Annotated[bool, Front()]] = False
    """Continue the run in `output_path`; start it where nothing has begun."""
    log_samples: Runtime[Annotated[bool, Off("Refused: a run goes on from its answers, so they are kept.")]] = True
    """Keep prompts' answers in full."""
    progress: Runtime[Annotated[bool, Off("Show no progress on the terminal.")]] = True
    """Show progress on the terminal."""

    @model_validator(mode="before")
    @classmethod
    def _usual_controls(cls, values: Any) -> Any:
        return validation.with_usual_controls(values)

    @model_validator(mode="after")
    def _agree(self) -> RunConfig:
        validation.check(self)
        return self
