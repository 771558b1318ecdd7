"""What a form of fuser is to the rest of the harness: a module that reads entries of two caches and returns a delta.

Channels, training, bench, checkpoints and records use this interface and no form's own class; forms are looked up by
name in `harness.fusers.registry.FUSERS`. The C2C fuser (`harness.fusers.c2c`) is the first one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from harness.errors import UserError

Width = Annotated[int, Field(ge=1, le=1 << 16)]

Layer = Annotated[int, Field(ge=0, lt=1024)]

Temperature = Annotated[float, Field(gt=0, le=1e6)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class PairConfig:
    """What every form of fuser knows of its pair of caches; a form's own configuration extends it.

    Attributes:
        sharer_heads: KV heads of the sharer.
        sharer_head_dim: Width of one of them.
        receiver_heads: KV heads of the receiver.
        receiver_head_dim: Width of one of them.
        layer_map: Pairs (receiver layer, sharer layer), ascending in the receiver layer.

    Raises:
        pydantic.ValidationError: If a value is out of range or the layer map is not ascending.
    """

    sharer_heads: Width
    sharer_head_dim: Width
    receiver_heads: Width
    receiver_head_dim: Width
    layer_map: Annotated[tuple[tuple[Layer, Layer], ...], Field(min_length=1, max_length=1024)]

    @field_validator("layer_map")
    @classmethod
    def _ascending(cls, pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        receiver = [layer for layer, _ in pairs]
        if receiver != sorted(set(receiver)):
            raise ValueError("receiver layers must ascend, each once")
        return pairs

    @property
    def sharer_dim(self) -> int:
        """Width of the sharer's flattened heads."""
        return self.sharer_heads * self.sharer_head_dim

    @property
    def receiver_dim(self) -> int:
        """Width of the receiver's flattened heads."""
        return self.receiver_heads * self.receiver_head_dim


class Entry(NamedTuple):
    """What one stacked entry fuses: kind 0 is K, 1 is V."""

    kind: int
    receiver_layer: int
    sharer_layer: int


BOTH = (0, 1)

# Beside inputs and outputs, for a form that does not say what a token takes.
_WIDTHS_PER_TOKEN = 4


class CacheEntry(NamedTuple):
    """One layer's keys (kind 0) or values (kind 1) in a cache."""

    kind: int
    layer: int


class FuserModule(nn.Module):
    """Base of every form of fuser.

    A form names itself and its configuration and defines `forward`; everything else has a default. By default an entry
    is one kind of one layer pair: entry `kind * layers + place` reads one entry of the sharer's cache and writes one of
    the receiver's, `place` in `config.layer_map`. A form with another relation (several sharer layers for one of the
    receiver, K and V in one product) overrides `all_entries`, `reads` and `writes`.

    Usage:
        class LowRank(FuserModule):
            form = "low_rank"
            config_type = LowRankConfig  # extends PairConfig

            def forward(self, sharer, receiver, entries=None): ...

    Attributes:
        form: name in the registry and in checkpoints.
        config_type: pydantic dataclass of what fixes the module's shapes; extends `PairConfig`.
        config: of this module.
    """

    form: ClassVar[str]
    config_type: ClassVar[type[PairConfig]] = PairConfig

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.config: Any = config
        self.layers = len(config.layer_map)

    def forward(self, sharer: Tensor, receiver: Tensor, entries: Sequence[int] | Tensor | None = None) -> Tensor:
        """Returns what is added to the receiver's entries.

        Args:
            sharer: heads flattened, post-RoPE, `[len(reads(entries)), *tokens, sharer_dim]`.
            receiver: likewise, `[len(writes(entries)), *tokens, receiver_dim]`.
            entries: which entries the first dimension holds; all if omitted.

        Returns:
            `[len(writes(entries)), *tokens, receiver_dim]` in the receiver's dtype.
        """
        raise NotImplementedError

    def all_entries(self, kinds: Collection[int] = BOTH) -> tuple[int, ...]:
        """Returns every entry of the given kinds, as training fuses them."""
        return tuple(kind * self.layers + place for kind in sorted(kinds) for place in range(self.layers))

    def open_entries(self) -> tuple[int, ...]:
        """Returns the entries that add something when the module is evaluated; all for a form without gates."""
        return self.all_entries()

    def entries_in(self, entries: Sequence[int], layers: Collection[int]) -> tuple[int, ...]:
        """Returns those of the entries that write one of the receiver's layers."""
        return tuple(entry for entry in entries if self.writes((entry,))[0].layer in layers)

    def reads(self, entries: Sequence[int]) -> tuple[CacheEntry, ...]:
        """Returns the entries of the sharer's cache that these entries read, in `forward`'s order."""
        return tuple(CacheEntry(i // self.layers, self.config.layer_map[i % self.layers][1]) for i in entries)

    def writes(self, entries: Sequence[int]) -> tuple[CacheEntry, ...]:
        """Returns the entries of the receiver's cache that these entries read and add to, in `forward`'s order."""
        return tuple(CacheEntry(i // self.layers, self.config.layer_map[i % self.layers][0]) for i in entries)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def layer_scores(self) -> list[float]:
        """Returns how much each layer pair of `config.layer_map` matters, for `c2c:layers=topK`.

        Raises:
            UserError: the form has no measure of it.
        """
        raise UserError(
            f"Fuser form {self.form!r} does not rank its layers, so 'top' chooses nothing; give first, last, every2 or "
            "layer numbers."
        )

    def layer_figures(self) -> list[dict[str, Any]]:
        """Returns a row for each layer pair, with `layer`, `sharer_layer` and what the form reports; may be empty."""
        return []

    def figures(self) -> dict[str, float]:
        """Returns what the training's log shows of the module at a step."""
        return {}

    def set_step(self, step: int) -> None:
        """Says which optimizer step comes next, for schedules inside the module."""

    def start(self, **settings: Any) -> None:
        """Changes how freshly drawn weights start, before training.

        Raises:
            UserError: the form does not know a setting.
        """
        for name in settings:
            raise UserError(f"Fuser form {self.form!r} has no setting {name!r}; leave it out.")

    def open_gates(self) -> None:
        """Makes every entry add something, for timing."""

    def keep_kinds(self, kinds: Collection[int]) -> None:
        """Makes the module fuse only keys or only values from now on.

        Raises:
            UserError: the form fuses both or nothing.
        """
        if set(kinds) != set(BOTH):
            raise UserError(f"Fuser form {self.form!r} fuses keys and values together; leave fuse_kinds out.")

    def standardise(self, entries: Sequence[int], sharer: Tensor, receiver: Tensor) -> None:
        """Makes the first layer read what it is fed as if it had mean 0 and variance 1.

        Args:
            entries: which entries the inputs hold.
            sharer: as in `forward`, with one token dimension.
            receiver: likewise.

        Raises:
            UserError: the form has no such first layer.
        """
        raise UserError(f"Fuser form {self.form!r} cannot start from measured inputs; leave standard_rows out.")

    def tokens_per_chunk(self, entries: int, scratch_bytes: int) -> int:
        """Returns how many tokens may be fused at once within so much scratch memory."""
        width = self.config.sharer_dim + self.config.receiver_dim
        element = next(self.parameters()).element_size()
        return max(1, int(scratch_bytes // (max(1, entries) * _WIDTHS_PER_TOKEN * width * element)))


def config_of(kind: type[FuserModule], shapes: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Builds a form's configuration.

    Args:
        kind: the form.
        shapes: the fields of `PairConfig`.
        options: the form's own fields.

    Raises:
        UserError: an option is unknown or its value is not allowed.
    """
    from pydantic import ValidationError

    try:
        return kind.config_type(**shapes, **options)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"])) or "options"
        raise UserError(f"Fuser form {kind.form!r}: {name}: {problem['msg']}; see its configuration.") from error
