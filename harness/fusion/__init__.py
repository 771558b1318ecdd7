"""The C2C method: the fuser, its checkpoints, and the alignment of layers and tokens."""
