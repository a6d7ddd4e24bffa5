"""A head that is itself meta-trained: a transformer reads labelled vectors as a set and labels a query (CAML, Fifty et
al., ICLR 2024).  Labels are codes that are all equally far from each other, so that no label is special."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import log_softmax
from torch import Tensor, nn
from torch.nn import functional

from ...progress import track
from ...tasks.seeds import random_generator
from .head import Head, Labels, Queries, Scores, Vectors, centred, spread

QUERIES_PER_FORWARD = 256


def equiangular(classes: int) -> Float[Tensor, "classes classes"]:
    """Unit vectors with the same, smallest possible inner product, -1 / (classes - 1), between any two (CAML, section
    4): their Gram matrix is (1 + 1/(d-1)) I - 1/(d-1)."""
    if classes < 2:
        raise ValueError(f"classes is {classes}; codes tell at least two classes apart")
    return (classes / (classes - 1)) ** 0.5 * (torch.eye(classes) - 1 / classes)


class Network(nn.Module):
    """Class scores of queries from support vectors and their codes; no position is encoded, so order says nothing."""

    def __init__(self, width: int, classes: int = 8, hidden: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.codes: Tensor
        self.register_buffer("codes", equiangular(classes))
        self.unknown = nn.Parameter(torch.zeros(classes))  # the code of a query
        self.read = nn.Linear(width + classes, hidden)
        block = nn.TransformerEncoderLayer(
            hidden, heads, 2 * hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(hidden), enable_nested_tensor=False)
        self.write = nn.Linear(hidden, classes)

    def forward(
        self,
        support: Float[Tensor, "episodes examples width"],
        labels: Int[Tensor, "episodes examples"],
        queries: Float[Tensor, "episodes queries width"],
    ) -> Float[Tensor, "episodes queries classes"]:
        """Logits of each query, one for each code. A query sees itself and the support, which sees no query."""
        asked = torch.cat([queries, self.unknown.expand(*queries.shape[:2], -1)], dim=-1)
        tokens = torch.cat([torch.cat([support, self.codes[labels]], dim=-1), asked], dim=1)
        count = support.shape[1]
        hidden = ~torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        hidden[:, :count] = False
        states = self.blocks(self.read(tokens), mask=hidden)
        return self.write(states[:, count:]) @ self.codes


@dataclass(frozen=True)
class SetTransformer(Head):
    """A trained network as a head.

    Codes go to classes in the order of the classes' mean vectors, so that neither the names of labels nor the order of
    examples changes a score.
    """

    meta_trained = True
    network: Network | None = None

    def meta_train(self, tasks: Mapping[str, tuple[Vectors, Labels]], examples: int, seed: int) -> SetTransformer:
        classes = max([8, *(len(np.unique(labels)) for _, labels in tasks.values())])
        return replace(self, network=train_set_transformer(tasks, examples=examples, classes=classes, seed=seed))

    @torch.inference_mode()
    def scores(self, support: Vectors, labels: Labels, queries: Queries, classes: int) -> Scores:
        """As in `heads`; ValueError when the examples have more classes than the network has codes."""
        assert self.network is not None, "meta_train comes first"
        seen, places = np.unique(labels, return_inverse=True)
        if len(seen) > len(self.network.codes):
            raise ValueError(
                f"the examples have {len(seen)} classes but the set transformer was trained with "
                f"{len(self.network.codes)} codes; use another learner"
            )
        means = np.stack([support[places == place].mean(axis=0, dtype=np.float64) for place in range(len(seen))])
        code_of = np.argsort(np.lexsort(means.T))
        x, y = torch.from_numpy(np.array(support))[None], torch.from_numpy(code_of[places])[None]
        rows = [np.zeros((0, len(seen)))]
        for start in range(0, len(queries), QUERIES_PER_FORWARD):
            part = torch.from_numpy(np.array(queries[start : start + QUERIES_PER_FORWARD]))[None]
            rows.append(self.network(x, y, part)[0].double().numpy()[:, code_of])
        return spread(log_softmax(np.concatenate(rows), axis=1), seen, classes)


def train_set_transformer(
    tasks: Mapping[str, tuple[Vectors, Labels]],
    *,
    examples: int = 16,
    classes: int = 8,
    steps: int = 1000,
    episodes: int = 32,
    lr: float = 1e-3,
    seed: int = 100,
) -> Network:
    """A network trained on episodes: `examples` labelled vectors of a task, drawn at random, and as many others as
    queries, whose classes are predicted; classes get random codes.

    tasks: by name, vectors and labels of its examples. Raises ValueError when no task has enough examples, or one has
    more classes than there are codes.
    """
    usable = {
        name: (x, np.unique(y, return_inverse=True)[1]) for name, (x, y) in tasks.items() if len(x) >= 2 * examples
    }
    if not usable:
        raise ValueError(f"no training task has {2 * examples} examples; lower the number of demonstrations")
    if many := [name for name, (_, y) in usable.items() if y.max() >= classes]:
        raise ValueError(f"the training task {many[0]} has more than {classes} classes; give the network more codes")
    names: Sequence[str] = sorted(usable)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(usable[names[0]][0].shape[1], classes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    with track("set transformer", steps, "steps") as progress:
        for step in range(steps):
            generator, drawn = random_generator("set-transformer", seed, step), []
            for name in generator.choice(names, size=episodes):
                x, y = usable[str(name)]
                rows = generator.choice(len(x), size=2 * examples, replace=False)
                code_of = generator.permutation(classes)[y[rows]]
                drawn.append((*centred(x[rows[:examples]], x[rows[examples:]]), code_of))
            support, queries, codes = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
            logits = network(support, codes[:, :examples], queries)
            loss = functional.cross_entropy(logits.flatten(0, 1), codes[:, examples:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.advance(figures=f"loss {loss.item():.2f}")
    return network.eval()
