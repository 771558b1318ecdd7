"""What runs a model: the types of a question and its answer, batching, reading an answer off a prefilled batch."""
