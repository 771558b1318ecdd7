"""Loading language models: references, checkpoints, adapters, GGUF files, placement, and their chats."""
