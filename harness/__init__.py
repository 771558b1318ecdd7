"""What one language model gains when another one talks to it, and what that costs."""

__version__ = "0.1.0"
