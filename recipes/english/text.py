"""Raw text of a collection's training tasks, word vectors from it, and episodes without a label of any task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maml_en_llm.tasks.collection import Collection, Example

_WORD = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_")  # as `word_tokenizer` splits


def raw_texts(collection: Collection, setting: str) -> list[str]:
    """The distinct inputs of the setting's training tasks, train split, without their outputs and options."""
    tasks = [collection[name] for name in collection.setting(setting).train]
    return list(dict.fromkeys(example.input for task in tasks for example in task.train if example.input))


def frequent_words(texts: Sequence[str], most: int) -> list[str]:
    """The `most` most frequent words, the most frequent first."""
    counts = Counter(word for text in texts for word in _WORD.findall(text.lower()))
    return [word for word, _ in counts.most_common(most)]


def token_ids(tokenizer: Any, texts: Sequence[str], longest: int = 400) -> list[np.ndarray]:
    """The first `longest` token ids of each text."""
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [np.array(ids[:longest], dtype=np.int64) for ids in encoded]


def word_vectors(ids: Sequence[np.ndarray], size: int, width: int, window: int = 10) -> np.ndarray:
    """What each token occurs with [size, width]: longest norm 1, shorter for frequent tokens, 0 for absent ones.

    A truncated singular value decomposition of positive pointwise mutual information within a window (Levy and
    Goldberg, NeurIPS 2014), contexts smoothed by the power 3/4; at unit length, less the mean of all tokens of the
    text, times 0.01 / (0.01 + p(token)) (Arora et al., ICLR 2017).
    """
    from scipy.sparse import csr_matrix
    from sklearn.utils.extmath import randomized_svd

    gap = np.full(window, -1)  # between texts, so that no window holds two of them
    flat = np.concatenate([part for row in ids for part in (row, gap)])
    together = csr_matrix((size, size))
    for distance in range(1, window + 1):
        left, right = flat[:-distance], flat[distance:]
        both = (left >= 0) & (right >= 0)
        together = together + csr_matrix((np.ones(both.sum()), (left[both], right[both])), shape=(size, size))
    pairs = (together + together.T).tocoo()
    words = np.asarray(together.sum(axis=0)).ravel() + np.asarray(together.sum(axis=1)).ravel()
    contexts = words**0.75
    information = np.log(pairs.data * contexts.sum() / (words[pairs.row] * contexts[pairs.col]))
    keep = information > 0
    matrix = csr_matrix((information[keep], (pairs.row[keep], pairs.col[keep])), shape=pairs.shape)
    left, values, _ = randomized_svd(matrix, width, n_iter=3, random_state=0)
    vectors = left * np.sqrt(values)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-6)
    share = np.bincount(flat[flat >= 0], minlength=size) / (flat >= 0).sum()
    weight = 0.01 / (0.01 + share)
    vectors = (vectors - (weight * share) @ vectors / (weight @ share)) * weight[:, None]
    vectors[words == 0] = 0
    return vectors / np.linalg.norm(vectors, axis=1).max()


@dataclass(frozen=True)
class Corpus:
    """What episodes are made of: words of each document, and groups of documents and of words found by k-means."""

    documents: list[list[str]]
    topics: list[np.ndarray]
    """Indices of documents."""
    senses: list[list[str]]
    """Words that occur with the same words."""
    labels: list[str]
    """Words that may name a class."""


def corpus(texts: Sequence[str], words: Sequence[str], tokenizer: Any, vectors: np.ndarray, groups: int) -> Corpus:
    """Groups by the mean word vector of a document and by the vector of a word; the most frequent 1 in 200 words are
    in no group."""
    from sklearn.cluster import MiniBatchKMeans

    def members(x: np.ndarray) -> list[np.ndarray]:
        x = x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-6)
        found = MiniBatchKMeans(min(groups, len(x) // 4), batch_size=4096, n_init=1, random_state=0).fit_predict(x)
        return [np.flatnonzero(found == group) for group in range(found.max() + 1)]

    documents = [_WORD.findall(text.lower()) for text in texts]
    documents = [document for document in documents if len(document) >= 4]
    ids = token_ids(tokenizer, [" ".join(document) for document in documents], longest=60)
    topics = members(np.stack([vectors[row].mean(axis=0) for row in ids]))
    plain = [word for word in words[len(words) // 200 :] if word.isalpha() and word.isascii() and len(word) > 2]
    senses = members(vectors[tokenizer.convert_tokens_to_ids(plain)])
    return Corpus(
        documents,
        [topic for topic in topics if len(topic) >= 8],
        [[plain[i] for i in sense] for sense in senses if len(sense) >= 4],
        plain,
    )


KINDS = ("words", "3 words", "6 words", "14 words", "28 words", "pairs")


def episode(generator: np.random.Generator, corpus: Corpus, kind: str, examples: int) -> list[Example]:
    """Examples of a small task with made-up names of its classes; some classes are rarer than others.

    words: one to three words of a group of words for each class. N words: that many words in a row of a document in a
    group of documents for each class. pairs: are these two passages of one document, a document and a part of it
    without every word, or of different documents of a group?
    """
    count = int(generator.choice([2, 2, 3]) if kind == "pairs" else generator.choice([2, 2, 2, 2, 3, 3, 4, 6, 8]))
    groups: Sequence[Sequence[str] | np.ndarray] = corpus.senses if kind == "words" else corpus.topics
    count = min(count, len(groups))
    chosen = [np.asarray(groups[i]) for i in generator.choice(len(groups), size=count, replace=False)]
    labels = _names(generator, corpus.labels, count)
    relations = generator.permutation(3)
    shares = generator.dirichlet(np.full(count, 4.0))
    found = []
    for place in range(examples):
        # every class once, the others as they come
        number = place if place < count else int(generator.choice(count, p=shares))
        if kind == "words":
            input_text = " ".join(generator.choice(chosen[number], size=int(generator.integers(1, 4))))
        elif kind == "pairs":
            input_text = _pair(generator, corpus, chosen[0], int(relations[number]))
        else:
            document = corpus.documents[int(generator.choice(chosen[number]))]
            input_text = " ".join(_passage(generator, document, int(kind.split()[0])))
        found.append(Example(input_text, labels[number], tuple(labels)))
    return [found[i] for i in generator.permutation(examples)]


def _passage(generator: np.random.Generator, document: Sequence[str], length: int) -> list[str]:
    start = int(generator.integers(max(1, len(document) - length + 1)))
    return list(document[start : start + length])


def _pair(generator: np.random.Generator, corpus: Corpus, topic: np.ndarray, relation: int) -> str:
    one, other = (corpus.documents[int(i)] for i in generator.choice(topic, size=2, replace=False))
    first = _passage(generator, one, 20)
    half = len(first) // 2
    if relation == 0:  # a part of the words
        kept = generator.random(len(first)) < generator.uniform(0.4, 0.9)
        second = [word for word, keep in zip(first, kept, strict=True) if keep] or first
    elif relation == 1:  # what comes next
        first, second = first[:half], first[half:]
    else:
        second = _passage(generator, other, int(generator.integers(3, 15)))
    return " ".join([*first, "[SEP]", *second])


def _names(generator: np.random.Generator, words: Sequence[str], count: int) -> list[str]:
    """`count` different labels of one sort: words, letters or digits."""
    pool = (words, words, list("abcdefghijklmnopqrstuvwxyz"), list("0123456789"))[int(generator.integers(4))]
    return [str(name) for name in generator.choice(pool, size=count, replace=False)]
