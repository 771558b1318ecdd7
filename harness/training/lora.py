"""A low-rank adapter (LoRA, arXiv 2106.09685) inside a frozen receiver, and the loss that it is trained by.

Inserted by peft. Guarantees master weights in float32 with products in the model's format, weights of the receiver that
do not move, and a folder that peft itself reads: ``adapter_config.json`` and ``adapter_model.safetensors``, data only.

The gain of a fuser has to be measured against a receiver that is fine-tuned alone, so prompts, responses and loss are
those of a fuser's training with no cache fused. Rows are read in one forward pass and padded behind, where causal
attention sees no pad; the vocabulary is projected only where a response's token is predicted.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from harness.channels.layer_selection import chosen_layers
from harness.channels.single import Single
from harness.errors import UserError, unknown
from harness.models.lm import LM
from harness.models.reference import Reference
from harness.records.files import explaining, write_atomic
from harness.training.dataloader import Lesson, derived_seed
from harness.training.objective import GraphChannel, cross_entropy, zero_loss
from harness.training.recipe import Recipe

FOLDER, WEIGHTS = "adapter", "adapter_model.safetensors"

_NAME = "default"  # peft's own; it does not appear in the file


class MasterLinear(nn.Linear):
    """A linear layer whose product takes the format of what it reads; peft's takes that of the weight."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own name
        """Returns the product, in the format of `input`."""
        return F.linear(input, self.weight.to(input.dtype))


@dataclass(frozen=True, eq=False)
class Adapter:
    """A receiver with the adapter inside.

    Attributes:
        lm: the receiver, changed in place.
        peft: peft's view of the same modules.
        tensors: the weights under the names that they have in a file; they share memory with the parameters.
    """

    lm: LM
    peft: Any
    tensors: Mapping[str, Tensor]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The adapter's weights."""
        return [value for value in self.peft.parameters() if value.requires_grad]

    def train(self, mode: bool) -> None:
        """Turns the adapter's dropout on or off; the receiver stays in inference mode."""
        for layer in _tuned_layers(self.peft):
            layer.lora_dropout.train(mode)

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Writes a peft folder; what the adapter comes from stands in the header of the weights.

        Raises:
            RunError: if the disk is full or failing.
        """
        config = copy.copy(self.peft.peft_config[_NAME])
        config.base_model_name_or_path, config.revision = _base(self.lm.reference)
        config.target_modules, config.inference_mode = sorted(config.target_modules), True
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.tensors.items()}
        header = {"format": "pt", "provenance": json.dumps(dict(provenance))}
        with explaining(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / WEIGHTS, to_safetensors(tensors, header))
            config.save_pretrained(str(folder))

    def restore(self, folder: Path) -> None:
        """Takes over the weights that `save` wrote.

        Raises:
            UserError: if they are damaged or of other shapes.
        """
        try:
            found, own = load_file(folder / WEIGHTS), self.tensors
            if {name: value.shape for name, value in found.items()} != {k: v.shape for k, v in own.items()}:
                raise ValueError("it holds other shapes than the adapter's")
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(
                f"{folder / WEIGHTS} is damaged ({error}); remove {folder.parent} to go on from the one before."
            ) from error
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(found[name])


def insert_adapter(lm: LM, recipe: Recipe) -> Adapter:
    """Puts a new adapter into a receiver, in place; until it is trained it changes no number.

    Raises:
        UserError: if peft is missing, the receiver is an adapter itself, or the recipe names modules or layers that
            it does not have.
    """
    if lm.reference.adapter is not None:
        raise UserError(
            f"Receiver {recipe.receiver!r} is an adapter itself, and the new one could name only one base; give the "
            "model that it was trained in, or a folder of the two merged."
        )
    try:
        from peft import LoraConfig, get_peft_model
        from peft.utils import get_peft_model_state_dict
    except ImportError as error:
        raise UserError("peft is not installed; install c2c-harness[train] for --method lora.") from error
    layers = sorted(chosen_layers(recipe.lora_layers, lm.n_layers, "lora_layers")) if recipe.lora_layers else None
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=_targets(lm, recipe.lora_targets),
        layers_to_transform=layers,
    )
    torch.manual_seed(derived_seed(recipe.seed, "weights", 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going away
        peft = get_peft_model(lm.model, config).eval()
    for layer in _tuned_layers(peft):
        layer.cast_input_dtype_enabled = False
        layer.lora_A[_NAME], layer.lora_B[_NAME] = _master(layer.lora_A[_NAME]), _master(layer.lora_B[_NAME])
    return Adapter(lm, peft, get_peft_model_state_dict(peft, save_embedding_layers=False))


def _targets(lm: LM, asked: tuple[str, ...]) -> list[str]:
    """Last names of the modules to adapt: those asked for, or every linear layer of the decoder's."""
    named = lm.model.base_model.named_modules()
    known = sorted({name.rpartition(".")[2] for name, module in named if isinstance(module, nn.Linear)})
    wrong = next((name for name in asked if name not in known), None)
    if wrong is not None:
        raise unknown("module in lora_targets", wrong, known)
    return sorted(asked) or known


def _tuned_layers(peft: Any) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in peft.modules() if isinstance(module, LoraLayer)]


def _master(linear: nn.Linear) -> MasterLinear:
    made = MasterLinear(linear.in_features, linear.out_features, bias=False, device="meta")
    made.weight = linear.weight
    return made


def _base(reference: Reference) -> tuple[str, str | None]:
    """Name and revision as peft keeps them."""
    if reference.repo:
        return reference.repo, reference.commit
    return reference.text, None


class TunedReceiver(nn.Module):
    """Sum of the cross-entropies of the responses' tokens, in nats; the adapter's weights are its parameters."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter, self.channel = adapter, GraphChannel(adapter.lm, ())
        self.weights = nn.ParameterList(adapter.parameters)

    def forward(self, lessons: Sequence[Lesson], kept: None = None) -> Tensor:
        """Returns the summed loss; of no lessons at all a zero that every process can still differentiate."""
        return response_loss(self.adapter.lm, lessons) if lessons else zero_loss(self.parameters())

    def train(self, mode: bool = True) -> TunedReceiver:
        """Turns the adapter's dropout on or off."""
        self.adapter.train(mode)
        return super().train(mode)

    def set_step(self, step: int) -> None:
        """Nothing is annealed."""

    def evaluated_loss(self, lessons: Sequence[Lesson]) -> Tensor:
        """Returns the summed loss without dropout."""
        self.eval()
        return response_loss(self.adapter.lm, lessons)

    def as_evaluated(self) -> Single:
        """The receiver alone, with the adapter inside."""
        self.eval()
        return Single(self.adapter.lm)

    def figures(self) -> dict[str, float]:
        """Returns nothing: there is no gate."""
        return {}

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Writes the adapter as ``adapter``."""
        self.adapter.save(folder / FOLDER, provenance)

    def restore(self, folder: Path) -> None:
        """Reads what `save` wrote."""
        self.adapter.restore(folder / FOLDER)


def response_loss(lm: LM, lessons: Sequence[Lesson]) -> Tensor:
    """Cross-entropy of the responses' tokens under a model that reads prompts and responses alone, summed, in nats."""
    if lm.together.factors_change is not None and len(lessons) > 1:
        return torch.stack([response_loss(lm, [one]) for one in lessons]).sum()
    rows = [one.ids[0] for one in lessons]
    width = max(map(len, rows))
    ids = torch.tensor([list(row) + [lm.pad_id] * (width - len(row)) for row in rows], device=lm.device)
    # The column before a token predicts it.
    wanted = [[one.prompt_length - 1 <= place < len(one.ids[0]) for place in range(width)] for one in lessons]
    targets = torch.tensor([token for one in lessons for token in one.response], device=lm.device)
    return cross_entropy(_projected(lm, ids, torch.tensor(wanted, device=lm.device)), targets)


def _projected(lm: LM, ids: Tensor, wanted: Tensor) -> Tensor:
    """Logits of the wanted columns, `[wanted, vocabulary]`, row after row."""

    def pick(_: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0][wanted],)

    hook = lm.model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        logits: Tensor = lm.model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    return logits
