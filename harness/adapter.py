"""Older name of `harness.lm_eval_bridge.model`."""

from harness.lm_eval_bridge.model import ChannelLM, FusedLM, SingleLM, TextLM

__all__ = ["ChannelLM", "FusedLM", "SingleLM", "TextLM"]
