"""A model out of a GGUF file: what the file says is applied, or refused by name."""
