"""Hugging Face models: load, create, save, and their loss as a function of their parameters."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from .config import Trainable
from .files import replace_folder
from .prompts.batches import Batch

disable_progress_bar()  # ours say more


def load_tokenizer(model: str | Path) -> Any:
    """The tokenizer of a Hugging Face folder or hub id; ValueError when there is none.

    A folder with nothing but GPT-2's vocab.json and merges.txt counts as one.
    """
    try:
        if (Path(model) / "merges.txt").is_file() and not (Path(model) / "tokenizer_config.json").is_file():
            return AutoTokenizer.from_pretrained(str(model), tokenizer_type="gpt2")
        return AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"cannot load a tokenizer from {model}: {_first_line(error)}") from None


def load_model(model: str | Path, device: torch.device | str = "cpu", attention: str | None = None) -> Any:
    """The causal language model of a Hugging Face folder or hub id, float32, in evaluation mode (no dropout).

    Only safetensors weights are read and no remote code runs. attention: a transformers attention implementation;
    None leaves the choice to transformers. Raises ValueError when there is no such model.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(model),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attention,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"cannot load a causal language model from {model}: {_first_line(error)}") from None
    return loaded.to(device).eval()


def new_gpt2(
    tokenizer: PreTrainedTokenizerFast, *, layers: int, width: int, heads: int, context: int = 1024, seed: int = 0
) -> GPT2LMHeadModel:
    """An untrained GPT-2-shaped model (`layers` x `width`, tied embeddings, no dropout) for `tokenizer`."""
    if width % heads:
        raise ValueError(f"width ({width}) must be a multiple of heads ({heads})")
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config).eval()


def word_tokenizer(words: Iterable[str], pieces: int = 500, context: int = 1024) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each of `words`, lower-cased, wherever it stands.

    Other words are put together from `pieces` parts learned from `words`, and from single characters; a character
    beyond ASCII, accents aside, becomes `<|unknown|>`.  White space separates words and is not kept, but for
    line breaks.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    end, unknown = "<|endoftext|>", "<|unknown|>"
    distinct = sorted({word.lower() for word in words})
    learned = Tokenizer(models.WordPiece(unk_token=unknown))
    learned.train_from_iterator(distinct, trainers.WordPieceTrainer(vocab_size=pieces, show_progress=False))
    printable = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    breaks = ["\n", "\n\n", "\n\n\n"]
    parts = [*printable, *("##" + character for character in printable), *sorted(learned.get_vocab())]
    vocabulary = dict.fromkeys([end, unknown, *breaks, "##\n", *parts, *distinct])
    tokenizer = Tokenizer(
        models.WordPiece({token: number for number, token in enumerate(vocabulary)}, unk_token=unknown)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=False, lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"),
            pre_tokenizers.Split(Regex(r"\n+|\d|[^\w\s]|_"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=unknown, model_max_length=context
    )


def train_tokenizer(texts: Iterable[str], vocabulary: int, context: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with at most `vocabulary` tokens, learned from `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end, model_max_length=context
    )


def save_model(model: Any, tokenizer: Any, folder: Path, extra_files: Mapping[str, str] | None = None) -> None:
    """Writes a plain Hugging Face folder, with `extra_files` (name -> text) in it, replacing `folder` in one step."""
    beside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    for name, text in (extra_files or {}).items():
        (beside / name).write_text(text, encoding="utf-8")
    replace_folder(beside, folder)


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
        lora = LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules="all-linear", fan_in_fan_out=transposed)
        return LoraModel(model, lora, "default").eval()
    model.requires_grad_(False)
    if trainable == "bias":
        learning = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
        if not learning:
            raise ValueError(f"trainable is bias but a {type(model).__name__} has no biases; choose another")
    else:
        parts, blocks = _blocks(model)
        if last_blocks > len(blocks):
            raise ValueError(f"last_blocks is {last_blocks} but the model has {len(blocks)} blocks")
        norms = [m for n, m in parts.named_children() if "norm" in type(m).__name__.lower() and "embed" not in n]
        learning = [p for module in [*blocks[-last_blocks:], *norms] for p in module.parameters()]
    for parameter in learning:
        parameter.requires_grad_()
    return model


def _blocks(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The transformer blocks, which are the list with the most parameters, and the module that holds them."""
    lists = [(m, c) for m in model.modules() for c in m.children() if isinstance(c, nn.ModuleList)]
    return max(lists, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


def merge_trained(model: Any) -> Any:
    """The plain Hugging Face model with what was learned in it."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def trainable_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that learn, by name, each tied weight once; in-place changes reach the model."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def pick_device(name: str = "auto") -> torch.device:
    """`auto`: the first GPU there is, else the CPU; ValueError for a device that is not there."""
    if name != "auto":
        try:
            device = torch.device(name)
        except RuntimeError:
            raise ValueError(f"device is {name!r}; it must be auto, cpu, cuda, cuda:N or mps") from None
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError):
            raise ValueError(f"device is {name!r} but this machine has no such device; use auto or cpu") from None
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Lets this process keep large memory that it frees, where the C library is glibc; elsewhere nothing happens.

    What goes back to the system comes back page by page and zeroed, which is a sixth of an update on a CPU
    (docs/performance.md).
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        for option in (trim_threshold, mmap_threshold):
            library.mallopt(option, 2**31 - 1)


class PromptLoss:
    """The loss of a causal language model on a batch of prompts, as a function of its parameters.

    Per prompt the mean cross entropy over its answer tokens, then the mean over prompts.
    `loss(parameters, batch)` runs the model with `parameters` in place of its own, which it has back afterwards;
    logits are computed only at the positions that predict an answer token.
    """

    def __init__(self, model: nn.Module, autocast: torch.dtype | None = None) -> None:
        self.model = model
        self.autocast = autocast
        self._current: Mapping[str, Tensor] | None = None
        # Every place where a parameter stands: a tied weight stands in several and is exchanged in each exactly once.
        self._places: dict[str, list[tuple[dict[str, Any], str]]] = {}
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for module in model.modules():
            for attribute, parameter in module._parameters.items():
                if parameter is not None:
                    self._places.setdefault(names[id(parameter)], []).append((module._parameters, attribute))

    @contextlib.contextmanager
    def substituted(self, parameters: Mapping[str, Tensor]) -> Iterator[None]:
        """Within this context the model computes with `parameters` (some or all of its own, by name)."""
        if self._current is parameters:
            yield
            return
        before, own = self._current, []
        try:
            for name, tensor in parameters.items():
                for place, attribute in self._places[name]:
                    own.append((place, attribute, place[attribute]))
                    place[attribute] = tensor
            self._current = parameters
            yield
        finally:
            for place, attribute, tensor in reversed(own):
                place[attribute] = tensor
            self._current = before

    def __call__(self, parameters: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, ""]:
        with self.substituted(parameters):
            return prompt_loss(self.model, batch, self.autocast)

    def parts(self, batch: Batch) -> list[Batch]:
        """Batches of one prompt each; the mean of their losses is that of `batch`."""
        return [Batch(ids[None], mask[None]) for ids, mask in zip(batch.token_ids, batch.answer_mask, strict=True)]


def prompt_loss(model: nn.Module, batch: Batch, autocast: torch.dtype | None = None) -> Float[Tensor, ""]:
    """Mean over prompts of the mean over answer tokens of the next-token cross entropy; 0 for a prompt without any.

    Prompts run one by one: no token is padding, and attention never spans two prompts (packing them in one row was
    slower: docs/performance.md).
    """
    losses = [
        _loss_of_prompt(model, *prompt, autocast) for prompt in zip(batch.token_ids, batch.answer_mask, strict=True)
    ]
    return torch.stack(losses).mean()


def _loss_of_prompt(model: nn.Module, token_ids: Tensor, answer_mask: Tensor, autocast: torch.dtype | None) -> Tensor:
    """The loss of one prompt [tokens]; what follows the last token that predicts an answer token is not computed."""
    positions = answer_mask[1:].nonzero().squeeze(1)  # the first token of a prompt has nothing to be predicted from
    if positions.numel() == 0:
        return 0 * torch.stack([parameter.sum() for parameter in model.parameters()]).sum()
    read = token_ids[None, : int(positions[-1]) + 1]
    with torch.autocast(token_ids.device.type, dtype=autocast, enabled=autocast is not None):
        logits = model(input_ids=read, use_cache=False, logits_to_keep=positions).logits[0]  # [answer tokens, V]
    return functional.cross_entropy(logits.float() if autocast else logits, token_ids[positions + 1])


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
