"""Training of fusers between frozen models, through the engine's own channel code."""
