"""lm-eval's model interface over the channels, and its command line with these models."""
