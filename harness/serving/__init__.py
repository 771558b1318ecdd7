"""Receiver and sharer behind an external engine: any model class that lm-eval knows, for throughput.

Only what passes as text or loglikelihoods can run through one: the channels `receiver`, `sharer` and `t2t`.
"""
