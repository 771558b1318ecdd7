"""A run: its models, the accuracy pass, the latency pass, and what it leaves behind."""
