from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import WORDS, train_config
from maml_en_llm.config import load_yaml
from maml_en_llm.methods import method_from_keys
from maml_en_llm.prediction.predictor import LabelledTask, LoadedModel
from maml_en_llm.prompts.demonstrations import AsGiven
from maml_en_llm.tasks.collection import Example

CONFIG = Path(__file__).parents[2] / "configs" / "beyond" / "nearest-demonstrations.yaml"


def config_of(**changes: Any) -> Any:
    return train_config(Path("c"), Path("m"), Path("o"), method="nearest-demonstrations", **changes)


def examples_of(seed: int, count: int = 30) -> list[Example]:
    generator = np.random.default_rng(seed)
    texts = [" ".join(map(str, generator.choice(WORDS, size=4))) for _ in range(count)]
    return [Example(text, ("red", "blue")[i % 2], ("red", "blue")) for i, text in enumerate(texts)]


def bm25(bank: Sequence[str], query: str) -> list[float]:
    """Scores of Robertson and Zaragoza (2009) with k1 = 1.5 and b = 0.75, word by word."""
    counts = [Counter(text.split()) for text in bank]
    mean = sum(sum(count.values()) for count in counts) / len(bank)
    scores = [0.0] * len(bank)
    for word in query.split():
        n = sum(word in count for count in counts)
        idf = math.log(1 + (len(bank) - n + 0.5) / (n + 0.5))
        for i, count in enumerate(counts):
            norm = 1.5 * (0.25 + 0.75 * sum(count.values()) / mean)
            scores[i] += idf * count[word] / (count[word] + norm) if n else 0.0
    return scores


def nearest(bank: Sequence[Example], query: str, count: int) -> list[int]:
    """The best of those with another input, the best last; of equals the first counts as better."""
    scores = bm25([example.input for example in bank], query)
    allowed = [i for i, example in enumerate(bank) if example.input != query]
    best = sorted(allowed, key=lambda i: (-round(scores[i], 6), i))[:count]
    return best[::-1]


@pytest.fixture
def sampler(tokenizer: Any) -> Any:
    config = config_of()
    style = config.prompts()
    tasks = {f"task-{seed}": examples_of(seed) for seed in range(2)}
    own = {"format": style.format, "demonstrations": 3, "prompts_per_batch": 4, "seed": 1}
    return config.sampler(tasks=tasks, tokenizer=tokenizer, **own)


def test_training_prompts_are_behind_their_nearest_demonstrations(sampler: Any, tokenizer: Any) -> None:
    for number in range(10):
        batch = sampler.batch(number)
        for row, name in enumerate(batch.task_names):
            bank = sampler.tasks[name]
            prompts = []
            for target in bank:
                shown = [bank[i] for i in nearest(bank, target.input, 3)]
                ids = sampler.format.encode_training(tokenizer, shown, target).token_ids
                prompts.append(list(ids) + [0] * (batch.token_ids.shape[1] - len(ids)))
            assert batch.token_ids[row].tolist() in prompts


def test_prediction_is_behind_the_nearest_demonstrations_of_each_example(model_folder: Path) -> None:
    config, bank, queries = config_of(), examples_of(3), examples_of(4, count=5)
    model = LoadedModel(str(model_folder), "cpu")
    found = config.predictor(model, config.prompts()).scores(LabelledTask("t", bank), queries, seed=1)
    assert len({tuple(nearest(bank, query.input, 3)) for query in queries}) > 1
    for query, scores in zip(queries, found, strict=True):
        shown = [bank[i] for i in nearest(bank, query.input, 3)]
        style = dataclasses.replace(config.prompts(), demonstrations=3)
        predictor = config.predictor(model, style, select=AsGiven())
        assert predictor.scores(LabelledTask("t", shown), [query], seed=1)[0] == pytest.approx(scores, abs=1e-5)


def test_all_labelled_examples_count_as_used(model_folder: Path) -> None:
    predictor = config_of().predictor(LoadedModel(str(model_folder), "cpu"), config_of().prompts())
    assert predictor.labels_used(LabelledTask("t", examples_of(3))) == 30


def test_it_needs_demonstrations() -> None:
    with pytest.raises(ValueError, match="demonstrations is 0; it must be at least 1"):
        config_of(demonstrations=0)


def test_the_configuration_on_its_page_loads() -> None:
    config = method_from_keys(load_yaml(CONFIG) | {"collection": "c", "setting": "s", "output": "o"})
    assert (config.name, config.label()) == ("nearest-demonstrations", "Nearest demonstrations")
