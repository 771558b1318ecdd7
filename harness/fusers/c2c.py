"""The C2C fuser: its configuration, and all layers in one batched product.

The configuration fixes a fuser: the shapes of both KV-caches, its widths, layer map and schedule. An impossible one
cannot be constructed. The weights of all layers are stacked, with the entry as the first dimension of weights and
values, so that a linear layer is one batched product whatever the number of entries. The price is that all entries
share their shapes, and that an evaluation of a subset of entries keeps a contiguous copy of their weights beside the
originals.

Guarantees the numbers of the paper's per-layer projectors (section 3.3: projection, dynamic weighting, gate), which
`harness.fusers.reference` writes out, for any number of leading token dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from harness.fusers.interface import BOTH, Entry, FuserModule, PairConfig, Temperature, Width
from harness.fusers.registry import C2C


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class FuserConfig(PairConfig):
    """Everything that fixes a C2C fuser's shape and its training schedule.

    Attributes:
        hidden_dim: Width of the trunk.
        intermediate_dim: Inner width of the trunk's and the projection's FFN blocks.
        num_layers: Depth as the paper's code counts it; at least 3; the projection has ``num_layers - 2`` blocks.
        dropout: Probability inside the FFN blocks.
        initial_temperature: Of the Gumbel gate at step 0.
        final_temperature: Of the Gumbel gate from ``anneal_steps`` on.
        anneal_steps: Optimizer steps over which the temperature falls geometrically.

    Raises:
        pydantic.ValidationError: If a value is out of range or the layer map is not ascending.
    """

    hidden_dim: Width
    intermediate_dim: Width
    num_layers: Annotated[int, Field(ge=3, le=64)]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    initial_temperature: Temperature = 1.0
    final_temperature: Temperature = 0.001
    anneal_steps: Annotated[int, Field(ge=1)] = 1929


NORM_EPS = 1e-6


Bank = Mapping[str, Tensor]


def entry_shapes(config: FuserConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter of a single entry (one kind of one layer)."""
    hidden, inner = config.hidden_dim, config.intermediate_dim
    shapes: dict[str, tuple[int, ...]] = {"gate_logit": ()}
    shapes |= {"in_weight": (hidden, config.sharer_dim + config.receiver_dim), "in_bias": (hidden,)}
    shapes |= _block_shapes("mlp1", hidden, inner)
    shapes |= _block_shapes("scalar_mlp2", hidden, hidden)
    shapes |= {"scalar_head_weight": (config.receiver_heads, hidden), "scalar_head_bias": (config.receiver_heads,)}
    for depth in range(config.num_layers - 2):
        shapes |= _block_shapes(f"proj_mlp2_{depth}", hidden, inner)
    return shapes | {"proj_out_weight": (config.receiver_dim, hidden), "proj_out_bias": (config.receiver_dim,)}


def _block_shapes(name: str, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}_norm": (hidden,), f"{name}_w1_weight": (inner, hidden), f"{name}_w2_weight": (hidden, inner)}


def linear(bank: Bank, name: str, value: Tensor) -> Tensor:
    """Applies one linear layer of every entry, ``[entries, tokens, in]`` to ``[entries, tokens, out]``."""
    weight, bias = bank[f"{name}_weight"].transpose(1, 2), bank.get(f"{name}_bias")
    return torch.bmm(value, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), value, weight)


def block(bank: Bank, name: str, value: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies one FFN block, ``y + drop(w2 gelu(w1 rms_norm(y)))``, ``[entries, tokens, hidden]``."""
    normed = F.rms_norm(value, value.shape[-1:], eps=NORM_EPS) * bank[f"{name}_norm"].unsqueeze(1)
    inner = F.gelu(linear(bank, f"{name}_w1", normed))
    return value + drop(linear(bank, f"{name}_w2", inner))


def gumbel_like(value: Tensor) -> Tensor:
    """Draws standard Gumbel noise of the shape and dtype of ``value``; in float32, where the tails live."""
    tiny = torch.finfo(torch.float32).tiny
    noise = torch.empty_like(value, dtype=torch.float32).exponential_().clamp_min(tiny)
    return -noise.log().to(value.dtype)


__all__ = ["Entry", "Fuser", "FuserConfig"]


SCRATCH_BYTES = 256 * 2**20

# On a CPU a batched product is a loop anyway, and values that stay in the processor's cache between two products cost
# less than half of those that go out to memory.
CPU_SCRATCH_BYTES = 16 * 2**20

SMALLEST_SCALE = 0.05

SHUT = -1.0


class Fuser(FuserModule):
    """Computes what is added to the receiver's KV-cache; entry = kind * layers + position in ``layer_map``."""

    form: ClassVar[str] = C2C
    config_type: ClassVar[type[FuserConfig]] = FuserConfig
    config: FuserConfig
    gate_logit: Tensor
    gate_temperature: Tensor

    def __init__(self, config: FuserConfig) -> None:
        super().__init__(config)
        for name, shape in entry_shapes(config).items():
            self.register_parameter(name, nn.Parameter(torch.empty(2 * self.layers, *shape)))
        self.register_buffer("gate_temperature", torch.full((self.layers,), config.initial_temperature))
        self._open: tuple[int, ...] | None = None
        self._kept: tuple[tuple[int, ...], Bank] | None = None
        self._seen: tuple[Tensor, tuple[int, ...]] | None = None
        self._compiled: Callable[..., Tensor] | None = None
        widths = 2 * config.sharer_dim + 4 * config.receiver_dim + 3 * config.hidden_dim
        self._token_values = widths + 2 * max(config.hidden_dim, config.intermediate_dim)
        self.register_load_state_dict_post_hook(lambda module, _: module.refresh())
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws weights as ``nn.Linear`` does; norms become 1 and gate logits 0 (closed when evaluated)."""
        for name, value in self.named_parameters():
            if name == "gate_logit":
                value.zero_()
            elif name.endswith("_norm"):
                value.fill_(1.0)
            else:
                fan_in = self.get_parameter(name.removesuffix("_bias").removesuffix("_weight") + "_weight").shape[-1]
                value.uniform_(-(fan_in**-0.5), fan_in**-0.5)
        self.refresh()

    def refresh(self) -> None:
        """Forgets cached gates and weights; needed only after editing parameters of a fuser in eval mode."""
        self._open, self._kept, self._seen = None, None, None

    def train(self, mode: bool = True) -> Fuser:
        """Switches between soft gates (training) and hard ones, forgetting what was cached."""
        self.refresh()
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fuser:
        self.refresh()
        super()._apply(fn, recurse)
        return self

    def gates(self) -> Tensor:
        """Returns the gate logits, ``[2, layers]``, K first."""
        return self.gate_logit.view(2, self.layers)

    def open_entries(self) -> tuple[int, ...]:
        """Returns the entries whose gate logit is above zero; read from the device once in eval mode."""
        if self._open is not None and not self.training:
            return self._open
        self._open = tuple((self.gate_logit > 0).nonzero().flatten().tolist())
        return self._open

    def sources(self, entries: Sequence[int] | None = None) -> tuple[Entry, ...]:
        """Returns the kind and the two layers of the given entries, or of all."""
        chosen = range(2 * self.layers) if entries is None else entries
        return tuple(Entry(index // self.layers, *self.config.layer_map[index % self.layers]) for index in chosen)

    def set_temperature_step(self, step: int) -> None:
        """Anneals the gates' temperature geometrically from its initial to its final value."""
        config = self.config
        done = min(max(step, 0) / max(config.anneal_steps, 1), 1.0)
        self.gate_temperature.fill_(
            config.initial_temperature * (config.final_temperature / config.initial_temperature) ** done
        )

    def set_step(self, step: int) -> None:
        """Anneals the gates; see `set_temperature_step`."""
        self.set_temperature_step(step)

    @torch.no_grad()
    def start(self, **settings: Any) -> None:
        """Sets ``initial_gate``, the gates' logits, and with ``zero_output`` makes the fuser add nothing at first.

        Raises:
            UserError: another setting is given.
        """
        self.gate_logit.fill_(settings.pop("initial_gate", 0.0))
        if settings.pop("zero_output", False):
            self.get_parameter("proj_out_weight").zero_()
            self.get_parameter("proj_out_bias").zero_()
        super().start(**settings)

    @torch.no_grad()
    def open_gates(self) -> None:
        """Opens every gate."""
        self.gate_logit.fill_(1.0)
        self.refresh()

    @torch.no_grad()
    def keep_kinds(self, kinds: Collection[int]) -> None:
        """Shuts the gates of the other kind; nothing opens them again, because they take no part in the loss."""
        for kind in set(BOTH) - set(kinds):
            self.gates()[kind].fill_(SHUT)
        self.refresh()

    @torch.no_grad()
    def standardise(self, entries: Sequence[int], sharer: Tensor, receiver: Tensor) -> None:
        """Folds mean and scale of what is fed into the first layer's weights and bias; see `FuserModule`."""
        fed = torch.cat([sharer.to(receiver.device, torch.float32), receiver.float()], -1)
        mean, scale = fed.mean(1), fed.std(1).clamp_min(SMALLEST_SCALE)  # [entries, width]
        chosen = list(entries)
        weight, bias = self.get_parameter("in_weight"), self.get_parameter("in_bias")
        # Uniform weights bounded by 1/sqrt(width) have a variance of a third of 1/width.
        folded = weight[chosen] * 3**0.5 / scale[:, None].to(weight)
        weight[chosen] = folded
        bias[chosen] -= (folded * mean[:, None].to(weight)).sum(-1)

    def layer_scores(self) -> list[float]:
        """Returns the larger of the K and V gate logits of each layer pair."""
        return [float(score) for score in self.gates().detach().float().amax(0)]

    def layer_figures(self) -> list[dict[str, Any]]:
        """Returns the gate logits of each layer pair, ``gate_k`` and ``gate_v``."""
        keys, values = self.gates().tolist()
        return [
            {"layer": layer, "sharer_layer": source, "gate_k": key, "gate_v": value}
            for (layer, source), key, value in zip(self.config.layer_map, keys, values, strict=True)
        ]

    def figures(self) -> dict[str, float]:
        """Returns the gates' temperature, the share of open ones and the mean of their logits."""
        logits = self.gate_logit.detach()
        return {
            "temperature": float(self.gate_temperature[0]),
            "gates_open": float((logits > 0).float().mean()),
            "gate_logit_mean": float(logits.mean()),
        }

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the arithmetic of training; evaluation stays as it is."""
        self._compiled = torch.compile(self._formula, *args, **kwargs)

    def forward(self, sharer: Tensor, receiver: Tensor, entries: Sequence[int] | Tensor | None = None) -> Tensor:
        """Returns gate * weight * delta, to be added to the receiver's K (or V).

        In training the gates are soft and noisy. In eval mode the given entries count as open, and
        without ``entries`` the hard gates of all apply. The same tensor object may be passed as
        ``entries`` again without another read from its device, provided that it is not edited.

        Args:
            sharer: Heads flattened, post-RoPE, ``[entries, *tokens, sharer_heads * sharer_head_dim]``.
            receiver: Likewise, ``[entries, *tokens, receiver_heads * receiver_head_dim]``.
            entries: Which stacked entries the first dimension holds; all ``2 * layers`` if omitted.

        Returns:
            ``[entries, *tokens, receiver_heads * receiver_head_dim]`` in the receiver's dtype.
        """
        chosen = self._indices(entries)
        bank = self._bank(chosen)
        first, second = sharer.flatten(1, -2), receiver.flatten(1, -2)  # [E, T, D]
        if torch.is_grad_enabled():
            return self._added(bank, first, second, chosen).view_as(receiver)
        added = torch.empty_like(second)
        for rows in self._groups(*second.shape[:2]):
            self._add_chunks(added[rows], {n: v[rows] for n, v in bank.items()}, first[rows], second[rows], chosen)
        return added.view_as(receiver)

    def tokens_per_chunk(self, entries: int, scratch_bytes: int = SCRATCH_BYTES) -> int:
        """Returns how many tokens may be fused at once without exceeding the scratch memory."""
        return max(1, scratch_bytes // (entries * self._token_bytes))

    @property
    def _token_bytes(self) -> int:
        return self._token_values * self.gate_logit.element_size()

    def _groups(self, entries: int, tokens: int) -> list[slice]:
        """Entries that are fused together: all of them, but for a CPU, where the scratch memory says."""
        if self.training or self.gate_logit.device.type != "cpu":
            return [slice(0, entries)]
        together = max(1, CPU_SCRATCH_BYTES // max(1, tokens * self._token_bytes))
        return [slice(start, start + together) for start in range(0, entries, together)]

    def _add_chunks(
        self, added: Tensor, bank: Bank, sharer: Tensor, receiver: Tensor, chosen: tuple[int, ...] | None
    ) -> None:
        scratch_bytes = CPU_SCRATCH_BYTES if self.gate_logit.device.type == "cpu" else SCRATCH_BYTES
        step = self.tokens_per_chunk(receiver.shape[0], scratch_bytes)
        for start in range(0, receiver.shape[1], step):
            part = slice(start, start + step)
            added[:, part] = self._added(bank, sharer[:, part], receiver[:, part], chosen)

    def _added(self, bank: Bank, sharer: Tensor, receiver: Tensor, chosen: tuple[int, ...] | None) -> Tensor:
        formula = self._compiled if self._compiled is not None and self.training else self._formula
        return formula(bank, sharer, receiver, chosen)

    def _formula(self, bank: Bank, sharer: Tensor, receiver: Tensor, chosen: tuple[int, ...] | None) -> Tensor:
        dtype, drop = self.gate_logit.dtype, self._drop
        hidden = linear(bank, "in", torch.cat([sharer.to(dtype), receiver.to(dtype)], dim=-1))
        hidden = block(bank, "mlp1", hidden, drop)
        weight = linear(bank, "scalar_head", block(bank, "scalar_mlp2", hidden, drop)).sigmoid()  # [E, T, H]
        for depth in range(self.config.num_layers - 2):
            hidden = block(bank, f"proj_mlp2_{depth}", hidden, drop)
        delta = linear(bank, "proj_out", hidden)
        delta = delta.view(*weight.shape, -1)  # [E, T, H, D]
        weight = self._gated(bank, weight, chosen)
        return (delta * weight.unsqueeze(-1)).flatten(-2).to(receiver.dtype)

    def _gated(self, bank: Bank, weight: Tensor, chosen: tuple[int, ...] | None) -> Tensor:
        logit = bank["gate_logit"].view(-1, 1, 1)
        if self.training:
            temperature = self.gate_temperature.repeat(2)
            if chosen is not None:
                temperature = temperature[list(chosen)]
            gate = torch.sigmoid((logit + gumbel_like(weight)) / temperature.view(-1, 1, 1))
            return weight * gate
        return weight * (logit > 0) if chosen is None else weight

    def _drop(self, value: Tensor) -> Tensor:
        return F.dropout(value, self.config.dropout, self.training)

    def _indices(self, entries: Sequence[int] | Tensor | None) -> tuple[int, ...] | None:
        if not isinstance(entries, Tensor):
            return None if entries is None else tuple(entries)
        if self._seen is None or self._seen[0] is not entries:
            self._seen = (entries, tuple(entries.tolist()))
        return self._seen[1]

    def _bank(self, chosen: tuple[int, ...] | None) -> Bank:
        own = dict(self.named_parameters())
        if chosen is None or chosen == tuple(range(2 * self.layers)):
            return own
        if self.training:
            return {name: value[list(chosen)] for name, value in own.items()}
        if self._kept is None or self._kept[0] != chosen:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = chosen, {name: value[list(chosen)] for name, value in own.items()}
        return self._kept[1]
