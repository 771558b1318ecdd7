"""Tests that every channel has to pass, including those of other distributions.

Usage:
    pytest --pyargs harness.conformance --channel kvcomm
    pytest --pyargs harness.conformance --channel mine:layers=0-1 --plugin my_channel.py

A channel that is not installed is named by ``--plugin``, a module or a file, as for ``run``.

They run on random models of a few kilobytes, without a network: an answer depends neither on the order of questions nor
on their batch, every control that the channel can take answers, payload bytes are those of the message, a fact that
only the sharer reads stays out of the receiver's prompts, and a resumed run ends like one that was not interrupted.
"""
