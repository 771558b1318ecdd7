"""The configuration of a run: `RunConfig`, its identity, and its way from and to YAML."""

from harness.config.identity import differing, identity, identity_fields, identity_hash, kinds
from harness.config.loading import build, from_yaml, parse, read_yaml, to_yaml
from harness.config.run_config import RunConfig

__all__ = [
    "RunConfig",
    "build",
    "differing",
    "from_yaml",
    "identity",
    "identity_fields",
    "identity_hash",
    "kinds",
    "parse",
    "read_yaml",
    "to_yaml",
]
