"""Trainable modules that write a message into a KV-cache, and their checkpoints."""
