"""What a run is told to do: `RunConfig`, its identity, and its way from and to YAML."""

from harness.config.hashing import differing, identity, identity_fields, identity_hash, kinds
from harness.config.model import RunConfig
from harness.config.reading import build, from_yaml, parse, read_yaml, to_yaml

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
