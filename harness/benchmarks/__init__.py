"""Benchmarks as lm-eval tasks: one folder each, in two forms.

The plain name is the paper's protocol (generated text); `<name>_letters` compares the loglikelihoods
of the option letters. Every task yields the same canonical document (`harness.benchmarks.documents.Document`).
"""
