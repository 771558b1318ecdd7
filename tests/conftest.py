"""Settings for every test: one thread, so that sums are formed in one order, and no network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("models", deadline=None, derandomize=True)
settings.load_profile("models")
