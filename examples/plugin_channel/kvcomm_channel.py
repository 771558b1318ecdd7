"""The sharer's keys and values stand before the receiver's own in chosen layers (KVComm, arXiv 2510.03346)."""

from dataclasses import dataclass

from harness.channels.control_registry import ControlEntry
from harness.channels.interface import Group
from harness.channels.layer_selection import chosen_layers
from harness.channels.messages import TensorMessage, to_receiver_device
from harness.channels.prompt_layout import check_fits, prompts_of
from harness.channels.registry import ChannelEntry, Options
from harness.channels.shared_prefix import check_same_shape, prefill_behind, read_cache
from harness.models.lm import LM


class KVCommOptions(Options):
    layers: str | None = None
    """Layers that see what the sharer read, such as `8-19`; default: all."""


@dataclass(frozen=True)
class KVComm:
    answers: LM
    sharer: LM
    layers: frozenset[int]
    name: str = "kvcomm"
    variant: str = ""

    def prompt_length(self, query):
        (theirs,) = prompts_of(self.sharer, [query], "sharer", answering=False)
        (own,) = prompts_of(self.answers, [query], "receiver")
        return check_fits(self.answers, len(theirs.ids) + len(own.ids), max(query.room, own.room))

    def forget(self): ...  # nothing is remembered

    def send(self, queries, work):
        prompts = prompts_of(self.sharer, queries, "sharer", answering=False)
        with work.clock.stage("sharer_prefill"):
            part, lengths = read_cache(self.sharer, prompts, self.layers, work)
        return to_receiver_device(TensorMessage((part,), lengths), "native", self.answers.device, work)

    def receive(self, queries, message, work):
        prompts = prompts_of(self.answers, queries, "receiver")
        with work.clock.stage("receiver_prefill"):
            return prefill_behind(self.answers, message.parts[0], message.lengths, self.layers, prompts, work)


def build(models, options):
    check_same_shape(models.receiver, models.sharers[0])
    layers = chosen_layers(options.layers, models.receiver.n_layers, "layers")
    return [Group(KVComm(models.receiver, models.sharers[0], layers))]


def last_token(message, given):
    return message.with_rows([tuple(part[:, -1:].expand_as(part) for part in row) for row in message.rows()])


SUMMARY = "the sharer's keys and values before the receiver's own, without training"
KVCOMM = ChannelEntry("kvcomm", SUMMARY, build, needs=frozenset({"sharer"}), message="tensors", options=KVCommOptions)
LAST_TOKEN = ControlEntry("last_token", "every token of a message is its last one", tensors=last_token)
