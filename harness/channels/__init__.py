"""Ways for one model to answer with the help of another; see `base` for the two halves of a channel."""
