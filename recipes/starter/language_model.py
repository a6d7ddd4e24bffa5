"""The recipe of the starter language model: word vectors, then a curriculum of episodes (docs/starter-model.md).

Every stage is an ordinary `train` run with the method `language-model` on a collection of episodes; it starts from the
model of the stage before, can be interrupted, and gives the same model on the same machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from maml_en_llm.methods.language_model import LanguageModel
from maml_en_llm.models import load_model, load_tokenizer, save_model, word_tokenizer
from maml_en_llm.prediction.scoring import Scorer
from maml_en_llm.progress import console
from maml_en_llm.prompts.layout import PromptFormat
from maml_en_llm.starter import starter_model
from maml_en_llm.tasks.seeds import random_generator
from maml_en_llm.tasks.writing import write_manifest, write_setting, write_task
from maml_en_llm.training.loop import train

from . import text
from .text import Difficulty

LAYERS, WIDTH, HEADS, CONTEXT = 4, 128, 4, 1024
PASSAGES_FOR_VECTORS = 60_000


@dataclass(frozen=True)
class Stage:
    """One run of the curriculum: `batches` of `prompts` prompts with `demonstrations`, on `tasks` episodes."""

    name: str
    difficulty: Difficulty
    demonstrations: int
    batches: int
    prompts: int = 32
    lr: float = 2e-3
    tasks: int = 4000
    warmup: float = 0.1


STAGES = (
    Stage("1-repeats", Difficulty((2, 2), 1, plain_labels=False), 9, 150, tasks=2000, warmup=0.3),
    Stage("2-few-words", Difficulty((2, 2), 3, plain_labels=False), 11, 150, tasks=2000, warmup=0.3),
)


def make_language_model(output: Path, stages: Iterable[Stage] = STAGES) -> Path:
    """Runs what of the recipe is not finished in `output` and returns the folder of the model."""
    model = output / "untrained"
    if not model.is_dir():
        console.print("word vectors and the first tokenizer")
        save_model(*untrained_model(), model)
    for stage in stages:
        folder = output / stage.name
        if not (folder / "collection" / "manifest.json").is_file():
            write_stage(folder / "collection", stage)
        console.rule(stage.name)
        model = train(
            LanguageModel(
                collection=folder / "collection",
                setting="stage",
                model=str(model),
                output=folder / "run",
                predicted="answers",
                demonstrations=stage.demonstrations,
                batches=stage.batches,
                batch_size=stage.prompts,
                lr=stage.lr,
                adam_betas=(0.9, 0.98),
                weight_decay=0.01,
                warmup=stage.warmup,
                schedule="constant",
                trainable="last_blocks",  # all blocks: the embeddings stay as they are
                last_blocks=LAYERS,
                log_every=50,
                checkpoint_every=500,
                device="cpu",
            ),
            resume=True,
        )
        for other in STAGES:
            console.print(f"{stage.name}: {100 * accuracy(model, other):.0f} % of held-out episodes of {other.name}")
    return model


def accuracy(model: Path, stage: Stage, episodes: int = 200) -> float:
    """Share of episodes that no stage has, of the stage's sort, whose last example is answered right; 1/2 is chance."""
    network, tokenizer, form = load_model(model), load_tokenizer(model), PromptFormat()
    generator = random_generator("starter-model", "held-out", stage.name)
    right = 0
    for _ in range(episodes):
        *shown, asked = text.episode(generator, stage.difficulty, stage.demonstrations + 1)
        prefix = form.encode_demonstrations(tokenizer, shown)
        (scores,) = Scorer(network).score(prefix, form.encode_all_targets(tokenizer, [asked], first=False))
        right += asked.options[int(np.argmin(scores))] == asked.output
    return right / episodes


def untrained_model(layers: int = LAYERS, width: int = WIDTH, heads: int = HEADS) -> tuple[Any, Any]:
    """Model and tokenizer before the first stage: embeddings from word vectors, attention near an induction circuit."""
    passages = list(islice(text.sentences(random_generator("starter-model", "vectors")), PASSAGES_FOR_VECTORS))
    tokenizer = word_tokenizer(text.every_word(), context=CONTEXT)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.25},
        use_parallel_residual=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPTNeoXForCausalLM(config).eval()
        with torch.no_grad():
            model.get_input_embeddings().weight.copy_(word_vectors(tokenizer, passages, width))
            begin_with_induction_(model)
    return model, tokenizer


def begin_with_induction_(model: GPTNeoXForCausalLM) -> None:
    """Sets attention to the beginning of an induction circuit (Olsson et al., 2022), which long training finds alone.

    In the first block each head looks a fixed number of tokens back, and two of them copy what the words one and two
    tokens back mean to places of their own. In every other block one head looks from the first of these places to the
    second, so from the end of an input to the label behind a similar input, and copies what it finds.
    """
    config = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    size = width // heads
    rotary = size // 4  # dimensions of a head that rotate with the position; the others compare contents
    content, half = size - rotary, rotary // 2
    frequencies = 100.0 ** (-torch.arange(half) / half)
    generator = torch.Generator().manual_seed(1)

    def within_random_half(rows: int) -> torch.Tensor:
        """Orthonormal rows [rows, width] in the second half of the embeddings."""
        basis = torch.linalg.qr(torch.randn(width // 2, rows, generator=generator))[0].T
        return torch.cat([torch.zeros(rows, width // 2), basis], dim=1)

    meaning = torch.eye(width)[:content]
    places = within_random_half(2 * content)
    blocks: Any = model.gpt_neox.layers
    for number, block in enumerate(blocks):
        attention = block.attention
        weight = attention.query_key_value.weight.view(heads, 3 * size, width)  # per head: query, key, value
        bias = attention.query_key_value.bias.view(heads, 3 * size)
        output = attention.dense.weight.view(width, heads, size)
        if number:
            weight[0, rotary:size] = 0.8 * places[:content]
            weight[0, size + rotary : 2 * size] = 0.8 * places[content:]
            copied = within_random_half(size)
            weight[0, 2 * size :], output[:, 0] = 0.8 * copied, 0.8 * copied.T
            continue
        for head in range(heads):
            angle = (head + 1) * frequencies
            bias[head, :half], bias[head, half:rotary] = 5 * torch.cos(angle), -5 * torch.sin(angle)
            bias[head, size : size + half] = 5.0
            if head < 2:
                weight[head, 2 * size :], output[:, head] = 0, 0
                weight[head, 2 * size : 2 * size + content] = 0.3 * meaning
                output[:, head, :content] = 0.3 * places[head * content : (head + 1) * content].T


def word_vectors(tokenizer: Any, passages: list[str], width: int) -> torch.Tensor:
    """Embeddings [vocabulary, width]: half what a word occurs with, half random to tell words apart.

    The first half is a truncated singular value decomposition of the positive pointwise mutual information of words in
    one passage (Levy and Goldberg, NeurIPS 2014); rows have norm 0.5.
    """
    from scipy.sparse import csr_matrix
    from sklearn.utils.extmath import randomized_svd

    ids = tokenizer(passages, add_special_tokens=False)["input_ids"]
    rows = np.repeat(np.arange(len(ids)), [len(set(i)) for i in ids])
    columns = np.concatenate([sorted(set(i)) for i in ids])
    occurs = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(ids), len(tokenizer)))
    together = (occurs.T @ occurs).tocoo()
    count = np.asarray(occurs.sum(axis=0)).ravel()
    information = np.log(together.data * len(ids) / (count[together.row] * count[together.col]))
    keep = (information > 0) & (together.row != together.col)
    matrix = csr_matrix((information[keep], (together.row[keep], together.col[keep])), shape=together.shape)
    left, values, _ = randomized_svd(matrix, width // 2, random_state=0)
    meaning = torch.tensor(left * np.sqrt(values))
    meaning /= meaning.norm(dim=1, keepdim=True).clamp_min(1e-6)
    random = torch.randn(len(tokenizer), width - width // 2, generator=torch.Generator().manual_seed(0))
    random /= random.norm(dim=1, keepdim=True)
    return 0.5 * torch.cat([meaning, random], dim=1) / 2**0.5


def write_stage(folder: Path, stage: Stage) -> None:
    """The collection of one stage."""
    generator = random_generator("starter-model", stage.name)
    examples = 2 * (stage.demonstrations + 1)
    for number in range(stage.tasks):
        write_task(folder, f"episode-{number}", {"train": text.episode(generator, stage.difficulty, examples)})
    write_setting(folder, "stage", {"train": sorted(path.name for path in (folder / "data").iterdir())})
    write_manifest(folder, [])


def package(model: Path, folder: Path) -> None:
    """Writes a plain Hugging Face folder of `model` in half precision, without a record of where it was made."""
    save_model(load_model(model).half(), load_tokenizer(model), folder)


if __name__ == "__main__":
    package(make_language_model(Path(sys.argv[1])), starter_model())
