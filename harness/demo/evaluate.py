"""How the pair's channels answer, measured in a few lines for the trainer and its tests.

Guarantees the same prompts as the harness proper, which alone counts for results; this stands in for it
while the pair is being made, and needs no more than the two models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.demo.batches import letter_batch
from harness.demo.tokenizer import render
from harness.demo.train_fuser import FuserBatch, fused_logits
from harness.demo.wording import note_chat, question_chat
from harness.demo.world import LABELS, Question
from harness.fusion.fuser import Fuser


def fuser_batch(tokenizer: Any, questions: Sequence[Question]) -> FuserBatch:
    """The questions as the fuser's trainer wants them: prompt, letter, and the end token to predict."""
    batch = letter_batch(tokenizer, questions)
    return FuserBatch(batch.ids, batch.ids.shape[1] - 1, batch.targets[:, -2:])


@torch.no_grad()
def accuracies(
    receiver: Any, sharer: Any, fuser: Fuser | None, tokenizer: Any, questions: Sequence[Question]
) -> dict[str, float]:
    """Accuracy of each channel on the questions, by the most likely of the four letters.

    Args:
        receiver: the model that answers.
        sharer: the model that helps.
        fuser: between the two, or None to leave the cache channel out.
        tokenizer: of both.
        questions: to ask.

    Returns:
        ``receiver``, ``sharer``, ``t2t`` and, with a fuser, ``c2c`` and ``c2c_mismatched``.
    """
    batch = fuser_batch(tokenizer, questions)
    prompts = batch.ids[:, : batch.prompt_tokens]
    logits = {
        "receiver": receiver(prompts).logits[:, -1],
        "sharer": sharer(prompts).logits[:, -1],
        "t2t": _after_notes(receiver, sharer, tokenizer, questions),
    }
    if fuser is not None:
        logits["c2c"] = fused_logits(receiver, sharer, fuser, batch)[:, 0]
        logits["c2c_mismatched"] = fused_logits(receiver, sharer, fuser, batch, prompts.roll(len(questions) // 2, 0))[
            :, 0
        ]
    return {name: _share_right(tokenizer, value, questions) for name, value in logits.items()}


def _share_right(tokenizer: Any, logits: Tensor, questions: Sequence[Question]) -> float:
    letters = logits[:, tokenizer.convert_tokens_to_ids(list(LABELS))]  # [questions, 4]
    keys = torch.tensor([LABELS.index(q.key) for q in questions])
    return int((letters.argmax(-1) == keys).sum()) / len(questions)


def _after_notes(receiver: Any, sharer: Any, tokenizer: Any, questions: Sequence[Question]) -> Tensor:
    requests = torch.tensor(render(tokenizer, [note_chat(q.fact) for q in questions]))
    written = sharer.generate(
        requests,
        attention_mask=torch.ones_like(requests),
        max_new_tokens=16,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )[:, requests.shape[1] :]
    notes = tokenizer.batch_decode(written, skip_special_tokens=True)
    chats = [
        [*note_chat(q.fact), {"role": "assistant", "content": text}, *question_chat(q)]
        for q, text in zip(questions, notes, strict=True)
    ]
    rows = render(tokenizer, chats)
    return torch.stack([receiver(torch.tensor([row])).logits[0, -1] for row in rows])
