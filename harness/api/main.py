"""`evaluate`: one run from Python, with the settings and the answers of `run` on the command line.

It prints no result and leaves its process as it was: signals are the caller's, libraries are silent until it ends. Runs
in several threads wait for one another.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api.result import Result
from harness.config import RunConfig, build
from harness.config.embedded import with_embedded
from harness.config.loading import named
from harness.errors import UserError, lacking
from harness.registry import load_plugins

if TYPE_CHECKING:
    from harness.api.given import Given
    from harness.channels.registry import ChannelEntry
    from harness.fusers.interface import FuserModule
    from harness.models.lm import LM

    ModelLike = str | PathLike[str] | tuple[Any, Any] | LM
    FuserLike = str | PathLike[str] | FuserModule

_WHERE = "harness.evaluate"


def evaluate(
    receiver: ModelLike | None = None,
    sharer: ModelLike | Sequence[ModelLike] | None = None,
    fuser: FuserLike | Sequence[FuserLike] | None = None,
    channels: str | Sequence[str | Mapping[str, Any] | ChannelEntry] | None = None,
    tasks: str | Sequence[str] | None = None,
    *,
    plugin: str | Sequence[str] = (),
    **settings: Any,
) -> Result:
    """Compares channels on tasks.

    Usage:
        result = harness.evaluate(receiver="my/model", tasks=["openbookqa"], limit=100)
        result = harness.evaluate((model, tokenizer), sharer="its/sharer", fuser="folder", tasks="arc_challenge")

    Args:
        receiver: the model that answers: a name, a folder, or the pair (model, tokenizer) of loaded objects, which
            stays where it is; the embedded pair where no model is given.
        sharer: the model that sends messages, likewise; a list for several.
        fuser: for `c2c`, a folder, a name or a loaded fuser; a list, one a sharer, for several.
        channels: what is compared, `name[:option=value]...` each; all that the given models allow if left out. A
            `ChannelEntry` stands for a channel of one's own, and a `ControlEntry` in `controls=` for a control.
        tasks: benchmarks.
        plugin: modules or files that register channels, controls, fusers or tasks.
        settings: everything else that `run --help` lists, by the names of the flags; what is left out is as there.
            `output_path` keeps the run's folder; without it the folder goes with the `Result`.

    Raises:
        UserError: something is not allowed or cannot be had.
        RunError: too many questions failed, or the disk is full.
    """
    asked = {"receiver": receiver, "sharer": sharer, "fuser": fuser, "channels": channels, "tasks": tasks, **settings}
    try:
        load_plugins([plugin] if isinstance(plugin, str) else plugin)
        return _evaluated({name: value for name, value in asked.items() if value is not None})
    except ModuleNotFoundError as error:
        raise lacking(_WHERE, error) from error


def _evaluated(asked: Mapping[str, Any]) -> Result:
    from harness.api.given import Given

    values = named(asked, _WHERE)
    given = Given()
    config = build(with_embedded(given.named(values)), _WHERE)
    if config.tensor_parallel:
        raise UserError(
            "tensor_parallel splits models over several processes; use torchrun and the command line (docs/cluster.md)."
        )
    return _run(config, given)


def _run(config: RunConfig, given: Given) -> Result:
    if config.output_path is not None:
        return _finished(config, given)
    folder = Path(tempfile.mkdtemp(prefix="c2c-harness-"))
    try:
        result = _finished(config.model_copy(update={"output_path": str(folder / "run")}), given)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _finished(config: RunConfig, given: Given) -> Result:
    from harness.evaluation.run import libraries_silent, run

    with libraries_silent():
        return Result.read(run(config, [_WHERE], given=given.in_memory, shown=False))
