"""A second form of fuser, for tests: keys and values of a layer through one bottleneck (dk, dv = D E [k; v; k; v])."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from harness.fusers.interface import BOTH, FuserModule, PairConfig


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class LowRankConfig(PairConfig):
    rank: int = 4


class LowRank(FuserModule):
    form = "low_rank"
    config_type = LowRankConfig

    def __init__(self, config: LowRankConfig) -> None:
        super().__init__(config)
        wide, narrow = 2 * (config.sharer_dim + config.receiver_dim), 2 * config.receiver_dim
        self.encode = nn.Parameter(torch.randn(self.layers, wide, config.rank) / wide**0.5)
        self.decode = nn.Parameter(torch.randn(self.layers, config.rank, narrow))

    def forward(self, sharer: Tensor, receiver: Tensor, entries: Sequence[int] | Tensor | None = None) -> Tensor:
        chosen = list(self.all_entries() if entries is None else entries)
        places = chosen[: len(chosen) // 2]  # keys first; a layer's values come with its keys
        both = [value.flatten(1, -2).unflatten(0, (2, -1)) for value in (sharer, receiver)]
        read = torch.cat([part for value in both for part in value], dim=-1).to(self.encode.dtype)
        delta = read @ self.encode[places] @ self.decode[places]  # [layers, tokens, 2 * receiver_dim]
        return torch.cat(delta.chunk(2, dim=-1)).view_as(receiver).to(receiver.dtype)

    def all_entries(self, kinds: Collection[int] = BOTH) -> tuple[int, ...]:
        self.keep_kinds(kinds)
        return super().all_entries(kinds)
