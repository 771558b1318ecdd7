"""Which token of one tokenizer stands for which of another, and where messages stand in a chat."""
