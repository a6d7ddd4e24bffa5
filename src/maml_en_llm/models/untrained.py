"""Models and tokenizers made from nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast


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
