"""A transformer whose weights begin as a classifier: the label behind the most similar inputs of the prompt.

Six blocks of GPT-2's shape, in which one head each does a step that long training would have to find:

1. every token finds where its example and its part of it (input or answer) begin, and which token is before it;
2. a word finds an earlier copy of itself in its example;
3. the line break behind an input takes the mean of the input's word vectors;
4. the tokens of the answer behind it take that mean over, at unit length;
5. the mean over the demonstrations' inputs is subtracted from that of the query;
6. the line break behind the query looks for answers behind similar inputs, and the tokens of an answer for answers
   that began alike, and they copy what comes next (an induction head, Olsson et al., 2022).

So the model is a kernel classifier on mean word vectors at its first step, and training can only add to it. All other
heads and the MLPs add nothing at first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

LAYERS, WIDTH, HEADS, CONTEXT = 6, 256, 4, 1024
SIZE = WIDTH // HEADS
MEANING = 47  # dimensions of word vectors; one more tells repeated words
PAIRS = 10  # of a position code: cosine and sine of one frequency each


def part(start: int, size: int) -> Tensor:
    """The selector [width, size] of a part of the residual stream."""
    return torch.eye(WIDTH)[:, start : start + size]


def zero_sum(start: int, size: int) -> Tensor:
    """The same for `size` directions in `size` + 1 places whose numbers sum to 0: what a layer norm subtracts from all
    numbers does not depend on them."""
    basis = torch.linalg.qr(torch.cat([torch.ones(size + 1, 1), torch.eye(size + 1)[:, :size]], dim=1))[0]
    return part(start, size + 1) @ basis[:, 1:]


A = part(0, MEANING)  # what a word means; behind an input, what its words mean on average
REPEATED = part(MEANING, 1)  # how many of them are repeated
POOLED = part(0, MEANING + 1)
B = part(48, 48)  # which word it is
POSITION = zero_sum(96, 2 * PAIRS)
SEGMENT = zero_sum(117, 2 * PAIRS)  # where the example begins
LINE, BREAK, FILL, FIRST, ANSWER, AFTER_LINE, AFTER_BREAK, ONE = (part(138 + i, 1) for i in range(8))
NAME = 32  # so many of these numbers are enough to compare words by
PREVIOUS = part(146, 48)  # which word is before it
INPUT = part(194, MEANING + 1)  # of an answer: what the words of the input before it mean

WAVELENGTHS = [4096.0, *(4.3 * 1.7**i for i in range(PAIRS - 1))]
REPEATED_ON_AVERAGE = 0.25


@dataclass(frozen=True)
class Gains:
    """Free choices of the circuit, made on validation tasks.

    sharpness: of the comparison of inputs. prior: share of a label's frequency that is taken off its score. repeats:
        weight of the share of repeated words among the vectors. pooled: length of mean vectors; large, so that layer
        norm makes them alike. copied: how strongly answers are copied. output: scale of the logits.
    """

    sharpness: float = 20.0
    prior: float = 0.7
    repeats: float = 1.0
    pooled: float = 12.0
    copied: float = 20.0
    output: float = 0.8


def circuit(tokenizer: Any, meaning: Tensor, gains: Gains = Gains()) -> GPT2LMHeadModel:
    """The model for `tokenizer`; meaning [vocabulary, MEANING]: word vectors of norm at most 1."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=WIDTH,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).eval()
        for block in model.transformer.h:  # what is not part of the circuit reads, but writes nothing yet
            block.attn.c_proj.weight.zero_()
            block.mlp.c_proj.weight.zero_()
        model.transformer.wte.weight.copy_(word_embeddings(tokenizer, meaning))
        model.transformer.wpe.weight.copy_(position_embeddings())
        _set(model, gains)
    return model


def word_embeddings(tokenizer: Any, meaning: Tensor) -> Tensor:
    """[vocabulary, width]: meaning, a random part that tells words apart, and a filler that makes norms equal."""
    count = len(tokenizer)
    names = torch.randn(count, B.shape[1], generator=torch.Generator().manual_seed(0))
    for places in (slice(0, NAME), slice(NAME, None)):  # the first part alone has the same norm for all words, too
        names[:, places] -= names[:, places].mean(dim=1, keepdim=True)
        share = (names[:, places].shape[1] / B.shape[1]) ** 0.5
        names[:, places] *= share / names[:, places].norm(dim=1, keepdim=True)
    fill = (1 - meaning.square().sum(dim=1, keepdim=True)).clamp_min(0).sqrt()
    found = meaning @ A.T + names @ B.T + fill @ FILL.T
    line, gap, gaps = (tokenizer.convert_tokens_to_ids(token) for token in ("\n", "\n\n", "\n\n\n"))
    found[line] = 2**0.5 * LINE[:, 0]
    found[[gap, gaps]] = 2**0.5 * BREAK[:, 0]
    return found


def position_embeddings() -> Tensor:
    """[context, width]: a code of norm 1 that says where a token is, and a constant."""
    angles = torch.arange(CONTEXT)[:, None] * _frequencies()
    code = torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1) / PAIRS**0.5
    found = code @ POSITION.T + ONE.T
    found[0] += FIRST[:, 0]
    return found


def _frequencies() -> Tensor:
    return 2 * math.pi / torch.tensor(WAVELENGTHS)


def _turned(steps: float) -> Tensor:
    """Reads the position code of `steps` tokens further back."""
    angles = _frequencies() * steps
    turn = torch.zeros(2 * PAIRS, 2 * PAIRS)
    for i, angle in enumerate(angles):
        c, s = float(torch.cos(angle)), float(torch.sin(angle))
        turn[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[c, -s], [s, c]])
    return POSITION @ turn


def _set(model: GPT2LMHeadModel, gains: Gains) -> None:
    """Writes the heads of the circuit into the model."""
    blocks: Any = model.transformer.h
    gap = BREAK / 2**0.5
    begins = gap + FIRST
    line = LINE / 2**0.5
    # The slowest frequency, a quarter turn on: of several keys the last wins, by 1.5 nats a token.
    quarter = POSITION[:, :2] @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    last = (quarter, POSITION[:, :2], 1.5 * PAIRS * WAVELENGTHS[0] / (2 * math.pi))

    first = Heads(blocks[0], norm=2.0)
    first.set([last, (None, begins, 500.0)], [(POSITION, SEGMENT, 1.0)])
    first.set([last, (None, begins + line, 500.0)], [(line, ANSWER, 1.0)])
    first.set(
        [(_turned(1), POSITION, 80.0)],
        [(B, PREVIOUS, 1.0), (line, AFTER_LINE, 1.0), (gap, AFTER_BREAK, 1.0)],
    )

    second = Heads(blocks[1], norm=7**0.5)
    repeated = (1 - REPEATED_ON_AVERAGE) * ONE - begins
    second.set(
        [(B[:, :NAME], PREVIOUS[:, :NAME], 25.0 * B.shape[1] / NAME), (SEGMENT, SEGMENT, 40.0), (None, begins, 17.0)],
        [(repeated, REPEATED, 0.1)],  # little, so that norms stay alike
    )

    # All but line breaks look at the beginning of their example, which means nothing.
    third = Heads(blocks[2], norm=7**0.5)
    third.set(
        [(SEGMENT, SEGMENT, 25.0), (None, ANSWER, -30.0), (None, begins, 40.0), (-1.3 * line, begins, 40.0)],
        [(A, A, gains.pooled), (REPEATED, REPEATED, 10 * gains.repeats * gains.pooled)],
    )

    fourth = Heads(blocks[3], norm=7**0.5)  # scores are above 0 for the right key alone, however long its vector is
    fourth.set(
        [(SEGMENT, SEGMENT, 150.0), (None, ONE, -225.0), (None, line, 120.0), (None, begins, 78.0)],
        [(POOLED, INPUT, 7**-0.5)],
    )

    fifth = Heads(blocks[4], norm=8**0.5)
    fifth.set([(None, AFTER_LINE, 14.0), (-AFTER_LINE, AFTER_LINE, 14.0)], [(INPUT, INPUT, -1.0)])

    sixth = Heads(blocks[5], norm=8**0.5)
    line = 2.3 * line  # where a mean of vectors is long, all else is short behind the norm
    label = [(line, AFTER_LINE, 30.0), (None, begins, 40.0), (-4 * line, begins, 40.0)]
    sixth.set([*label, (INPUT, INPUT, 2.3 * gains.sharpness)], [(B, B, gains.copied)])
    # Behind the first token of an answer, those that followed it behind similar inputs compete with the beginnings of
    # all examples, so that every token of a label is about as likely as the first: scores are means over tokens.
    same = [(B[:, :NAME], PREVIOUS[:, :NAME], 28.0 * B.shape[1] / NAME), (None, ANSWER, 12.0), (None, begins, 40.0)]
    few = slice(0, 28)
    sixth.set([*same, (INPUT[:, few], INPUT[:, few], gains.sharpness)], [(B, B, gains.copied)])
    sixth.set([*same, (line, AFTER_LINE, 30.0), (-4 * line, begins, 40.0)], [(B, B, -gains.prior * gains.copied)])
    model.transformer.ln_f.weight.copy_(gains.output * B.sum(dim=1))


class Heads:
    """The heads of a block, set one after another. norm: of the residual stream where the block reads it."""

    def __init__(self, block: Any, norm: float) -> None:
        self.attention, self.scale, self.next = block.attn, WIDTH**0.5 / norm, 0

    def set(
        self, compared: list[tuple[Tensor | None, Tensor, float]], copied: list[tuple[Tensor, Tensor, float]]
    ) -> None:
        """The next head. Its scores are the sum over (query, key, strength) of strength * query @ key, where None is a
        query of 1, and it writes gain * read over (read, write, gain); all read the residual stream [width, size]."""
        weight, bias, output = self.attention.c_attn.weight, self.attention.c_attn.bias, self.attention.c_proj.weight
        start = self.next * SIZE
        query, key, value = (slice(start + i * WIDTH, start + i * WIDTH + SIZE) for i in range(3))
        for place in (query, key, value):
            weight[:, place], bias[place] = 0, 0
        column = 0
        for asked, found, strength in compared:
            each = abs(strength * SIZE**0.5) ** 0.5
            columns = slice(column, column + found.shape[1])
            column = columns.stop
            assert column <= SIZE
            weight[:, key][:, columns] = found * each / self.scale
            signed = math.copysign(each, strength)
            if asked is None:
                bias[query][columns] = signed
            else:
                weight[:, query][:, columns] = asked * signed / self.scale
        column = 0
        for read, write, gain in copied:
            columns = slice(column, column + read.shape[1])
            column = columns.stop
            assert column <= SIZE
            each = abs(gain / self.scale) ** 0.5  # read and write alike: neither is too large for training to change
            weight[:, value][:, columns] = read * each
            output[start : start + SIZE][columns] = math.copysign(each, gain) * write.T
        self.next += 1
