"""Which parameters of a model learn."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import Trainable
from ..hub import commit_of
from .frozen import hold_frozen_in_bfloat16
from .fused import Fused, fuse
from .loading import load_model, save_model
from .loss import PromptLoss
from .processes import Processes


def choose_trainable(model: Any, trainable: Trainable, lora_rank: int = 8, last_blocks: int = 2) -> Any:
    """The model with `requires_grad` on what learns alone; with LoRA wrapped by peft until `merge_trained`.

    LoRA goes on every linear layer but the output layer, with alpha = 2 * rank.  Raises ValueError when the model has
    nothing of the kind.
    """
    if trainable == "full":
        return model
    if trainable == "lora":
        from peft import LoraConfig, LoraModel

        transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())  # GPT-2's linear layers are
        # Llama 4's router is a Linear that returns other things than a linear layer does.
        routers = [name for name, module in model.named_modules() if type(module).__name__.endswith("Router")]
        lora = LoraConfig(
            r=lora_rank,
            lora_alpha=2 * lora_rank,
            target_modules="all-linear",
            exclude_modules=routers or None,
            fan_in_fan_out=transposed,
        )
        try:
            with warnings.catch_warnings():  # of what peft itself proposes for experts and then does not find
                warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
                return LoraModel(model, lora, "default").eval()
        except (ValueError, NotImplementedError) as error:  # state spaces, whose kernels read the weights themselves
            reason = str(error).strip().split("\n")[0].split(". ")[0]
            raise ValueError(
                f"trainable is lora but peft refuses a {type(model).__name__} ({reason}); use last_blocks or full"
            ) from None
    model.requires_grad_(False)
    if trainable == "bias":
        learning = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
        if not learning:
            raise ValueError(f"trainable is bias but a {type(model).__name__} has no biases; choose another")
    else:
        parts, blocks = blocks_of(model)
        if last_blocks > len(blocks):
            raise ValueError(f"last_blocks is {last_blocks} but the model has {len(blocks)} blocks")
        norms = [m for n, m in parts.named_children() if "norm" in type(m).__name__.lower() and "embed" not in n]
        learning = [p for module in [*blocks[-last_blocks:], *norms] for p in module.parameters()]
    for parameter in learning:
        parameter.requires_grad_()
    return model


def blocks_of(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The transformer blocks, which are the list with the most parameters, and the module that holds them."""
    lists = [(m, c) for m in model.modules() for c in m.children() if isinstance(c, nn.ModuleList)]
    return max(lists, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


def recompute_activations(model: Any) -> None:
    """Lets `model` keep the inputs of its transformer blocks alone and compute the rest again in the backward pass.

    Gradients and Hessian-vector products stay what they are. Raises ValueError for a model that has no list of blocks.
    """
    try:
        _, blocks = blocks_of(model)
    except ValueError:
        raise ValueError(
            f"a {type(model).__name__} has no list of blocks to recompute; leave recompute_activations out"
        ) from None
    for block in blocks:  # random numbers need no care: in evaluation mode nothing draws any
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def merge_trained(model: Any) -> Any:
    """The plain Hugging Face model with what was learned in it."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def trainable_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that learn, by name, each tied weight once; in-place changes reach the model."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class TrainableModel:
    """A causal language model whose `parameters`, by name, are learned; `loss` is a function of them and a batch.

    adapter_of: of a LoRA model that is saved as an adapter, the model that it belongs to.
    start: of a LoRA model, the folder or hub id that it came from: what does not learn is then held in bfloat16, and
        what was learned is merged into the weights that are there.
    """

    fused = Fused({})

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        autocast: torch.dtype | None = None,
        adapter_of: str | None = None,
        processes: Processes = Processes(),  # noqa: B008 (frozen)
        tokens_per_forward: int | None = None,
        start: str | None = None,
    ) -> None:
        self.network, self.tokenizer, self.adapter_of, self.start = network, tokenizer, adapter_of, start
        self.processes = processes
        if start is not None:
            hold_frozen_in_bfloat16(network)
        self.parameters = {name: parameter.detach() for name, parameter in trainable_parameters(network).items()}
        self.loss = PromptLoss(network, autocast, tokens_per_forward, processes)

    def fuse(self) -> None:
        """Makes `parameters` few long tensors with names of their own; `apart` has the parameters in them."""
        learning = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self.fused, self.parameters = fuse(learning)
        self.loss.fused = self.fused

    def apart(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of tensors like `parameters`, views by the names that the parameters have in the model."""
        return self.fused.apart(tensors)

    @property
    def size(self) -> int:
        """How many numbers learn."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def whole_like(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The state of a learner, in the shapes of a checkpoint: what a sharded model has parts of is whole there."""
        return state

    def gathered(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The same for a checkpoint to be written."""
        return state

    def handed_out(self, own: Mapping[str, Tensor], whole: Mapping[str, Tensor], seen: int) -> Mapping[str, Tensor]:
        """The state of a learner like `own` that all processes go on from after `seen` batches: `whole`, which the
        first has restored, or as it has begun."""
        state = {key: (whole or own)[key] for key in own}
        self.processes.copy_(state)
        return state

    def save(self, folder: Path, files: Mapping[str, str], maker: str = "train") -> None:
        """Writes a plain Hugging Face folder with the texts `files`, by name, in it; what was learned is merged.

        With `adapter_of` it is a PEFT folder instead. All processes may call it, and the first writes. maker: the verb
        that writes it.
        """
        if self.processes.rank > 0:
            return
        if self.adapter_of is not None:
            save_model(Adapter(self.network, self.adapter_of), self.tokenizer, folder, files, maker)
            return
        save_model(merge_trained(self._to_merge()), self.tokenizer, folder, files, maker)

    def _to_merge(self) -> Any:
        """The network, or one like it if merging takes it apart: training may go on."""
        if self.start is not None:
            network = choose_trainable(load_model(self.start), "lora", self.network.peft_config["default"].r)
            network.load_state_dict(self.apart(self.parameters), strict=False)
            return network
        return copy.deepcopy(self.network) if hasattr(self.network, "merge_and_unload") else self.network


@dataclass
class Adapter:
    """LoRA weights alone, and the name of the model that they belong to."""

    network: Any
    base: str

    def save_pretrained(self, folder: Path) -> None:
        """Writes what `peft.PeftModel.from_pretrained` opens.

        A local base is named by its path from the folder's final place, `folder` being where it is prepared.
        """
        local = Path(self.base).is_dir() and self.base != "starter"
        name = os.path.relpath(Path(self.base).resolve(), folder.resolve()) if local else self.base.partition("@")[0]
        lora = self.network.peft_config["default"]
        config = replace(
            lora,
            target_modules=sorted(lora.target_modules),
            base_model_name_or_path=name,
            revision=None if local else commit_of(self.base),
            task_type="CAUSAL_LM",
            inference_mode=True,
        )
        folder.mkdir(parents=True)
        config.save_pretrained(folder)
        learned = {
            f"base_model.{name.replace('.default.', '.')}": tensor.detach().cpu().clone()
            for name, tensor in self.network.named_parameters()
            if tensor.requires_grad
        }
        save_file(learned, folder / "adapter_model.safetensors", {"format": "pt"})
