"""The embedded default pair: a tiny invented world and two models that each know half of it."""
