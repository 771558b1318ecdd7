"""What has to be known of results beside their files: where they come from and what they are about.

It is written in a YAML file, or given as flags for one set of files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.channels.control_registry import CONTROLS
from harness.channels.spec import parse_channel
from harness.errors import UserError, suggest
from harness.imported.tables import text_of

ENDINGS = (".yaml", ".yml")
Model = TypeVar("Model", bound=BaseModel)
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class ArmName(_Part):
    """Which of our arms answered."""

    channel: str
    control: str = ""
    variant: str = ""

    @field_validator("channel")
    @classmethod
    def _known_channel(cls, value: str) -> str:
        return parse_channel(value).text

    @field_validator("control")
    @classmethod
    def _known_control(cls, value: str) -> str:
        return CONTROLS.get(value).name if value else value


class ResultFile(_Part):
    """A file of results.

    Attributes:
        path: inside the repository.
        at: where it lies here, seen from the manifest; empty = under its path.
        sha256: that it has to have; empty = any.
    """

    path: str
    at: str = ""
    sha256: str = ""

    @field_validator("sha256")
    @classmethod
    def _hexadecimal(cls, value: str) -> str:
        if value and not _SHA256.fullmatch(value):
            raise UserError(f"sha256 is {value[:70]!r}; 64 hexadecimal digits are needed.")
        return value


class About(_Part):
    """What results of one source may share; a part that says it itself wins."""

    receiver: str = ""
    sharers: list[str] = Field(default_factory=list)
    evaluator: str = ""
    hardware: str = ""
    note: str = ""


class Results(About):
    """Files that hold the answers of one or several arms to one task.

    Attributes:
        files: parts of one whole.
        format: empty = told by content.
        filter: of lm-eval samples with several.
        arms: the file's name of each arm -> ours, where it holds several.
        joined: false for a task that is none of ours.
    """

    files: list[ResultFile]
    task: str
    format: str = ""
    filter: str = ""
    channel: str = ""
    control: str = ""
    variant: str = ""
    arms: dict[str, ArmName] = Field(default_factory=dict)
    joined: bool = True

    def arm(self) -> ArmName:
        """The arm of a file that holds one.

        Raises:
            UserError: if no channel is named, or it is not known.
        """
        if not self.channel:
            raise UserError(f"{self.files[0].path} holds one arm; name its channel.")
        said = {"channel": self.channel, "control": self.control, "variant": self.variant}
        return _checked(ArmName, said, self.files[0].path)


class FigureLine(ArmName):
    """An accuracy alone: right answers, or a percentage that a whole number of them gives."""

    n: int = Field(gt=0)
    right: int | None = Field(None, ge=0)
    accuracy_percent: str = ""
    invalid: int | None = None
    e2e_s_mean: float | None = None


class Figures(About):
    """Accuracies of one task and pair that were published without their questions."""

    task: str
    path: str = ""
    figures: list[FigureLine]


class Manifest(About):
    """Everything that is imported from one commit of one repository."""

    repository: str
    commit: str
    licence: str
    results: list[Results] = Field(default_factory=list)
    figures: list[Figures] = Field(default_factory=list)

    @field_validator("commit")
    @classmethod
    def _is_commit(cls, value: str) -> str:
        if not _COMMIT.fullmatch(value):
            raise UserError(f"commit is {value[:50]!r}; 7 to 40 hexadecimal digits are needed, as git shows them.")
        return value

    @field_validator("repository", "licence")
    @classmethod
    def _is_given(cls, value: str) -> str:
        if not value.strip():
            raise UserError("repository and licence have to be given; without a licence nothing may be copied.")
        return value


@dataclass(frozen=True)
class Wanted:
    """A manifest and the folder that its files are seen from."""

    manifest: Manifest
    folder: Path


def read_manifest(path: Path, files_dir: Path | None = None) -> Wanted:
    """Reads a manifest.

    Args:
        path: of the manifest.
        files_dir: folder that its files are seen from; None = its own.

    Raises:
        UserError: if it is no YAML or something in it is missing, unknown or not allowed.
    """
    try:
        content = yaml.safe_load(text_of(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    return Wanted(build(content, str(path)), files_dir or path.parent)


def build(content: Any, where: str) -> Manifest:
    """Checks what was given; `where` names it for the error.

    Raises:
        UserError: if something is missing, unknown or not allowed.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where} has to say repository, commit, licence and results; see docs/importing.md.")
    manifest = _checked(Manifest, content, where)
    if not manifest.results and not manifest.figures:
        raise UserError(f"{where} names neither results nor figures.")
    return manifest


def with_defaults(part: About, manifest: Manifest) -> About:
    """Returns what a part says, and the manifest where it says nothing.

    Raises:
        UserError: if nobody says the receiver or the evaluator.
    """
    merged = About(**{name: getattr(part, name) or getattr(manifest, name) for name in About.model_fields})
    for name in ("receiver", "evaluator"):
        if not getattr(merged, name):
            raise UserError(f"The {name} of the results of {manifest.repository} is not given; name it.")
    return merged


def _checked(model: type[Model], content: Mapping[str, Any], where: str) -> Model:
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        # A name that is not known explains one that is missing.
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        name = ".".join(str(part) for part in first["loc"])
        near = suggest(str(first["loc"][-1]), _names(model)) if first["type"] == "extra_forbidden" else ""
        raise UserError(f"{where}: {name} is wrong: {first['msg']}.{near}") from error
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _names(model: type[BaseModel]) -> Sequence[str]:
    models = (model, Results, Figures, ResultFile, FigureLine)
    return [name for one in models for name in one.model_fields]
