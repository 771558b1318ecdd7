"""Tests that a channel of one's own has to pass, whoever wrote it.

Usage:
    pytest --pyargs harness.conformance --channel kvcomm
    pytest --pyargs harness.conformance --channel mine:layers=0-1 --plugin my_package.my_channel

They run on random models of a few kilobytes, without a network: an answer depends neither on the order nor on the
company of questions, every control that the channel can take answers, payload bytes are those of the message, a fact
that only the sharer reads stays out of the receiver's prompts, and a run that is resumed ends as one that was not.
"""
