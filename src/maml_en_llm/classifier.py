"""A text classifier with scikit-learn's conventions: `fit` keeps labelled examples, `predict` shows them to a model."""

from __future__ import annotations

import copy
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from scipy.special import log_softmax, logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from .hub import pinned, weights_stamp
from .methods import method_of_model
from .models import join, pick_device
from .prediction.features import features_of, selection_with
from .prediction.files import Asked, Predicted, predict_file
from .prediction.from_features import FromFeatures
from .prediction.heads import head_type
from .prediction.in_context import InContext
from .prediction.predictor import LabelledTask, LoadedModel, Predictor
from .progress import console, track
from .prompts.choosing import Choice
from .prompts.demonstrations import AsGiven, Select
from .prompts.layout import Direction
from .prompts.style import PromptStyle
from .results import read_provenance
from .tasks.collection import Example
from .tasks.seeds import random_generator

PROTOCOL_SEEDS = (100, 13, 21, 42, 87)
ROWS_AT_ONCE = 256
ROWS_FOR_A_BAR = 1000


class InContextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Predicts labels of texts with a language model that reads labelled examples in its prompt.

    Parameters
    ----------
    model: Hugging Face folder, hub id, or "starter" for the built-in model. It is loaded at the first prediction, once
        for all classifiers of a process.
    revision: branch, tag or commit of a hub id.
    direction: "direct" or "channel"; None: as the model was trained.
    choose: which examples stand in a prompt: "random", "balanced", "bm25", "nearest", "diverse" (docs/choosing.md), or
        "given" for all of them in their order.
    demonstrations: how many of them; all when there are fewer.
    order: 0 shows the examples as they were chosen; any other number shuffles them, each in its own way.
    calibrate: subtract the score that an option has behind the input "N/A"; direct only.
    seeds: over how many draws of demonstrations probabilities are averaged, or the seeds themselves.
    learner: "in-context", or a head that learns from the same examples (`docs/heads.md`): "logistic", "nearest", ...
    choose_groups: with bm25 and nearest, how many sets of demonstrations are chosen for the rows of one call; 0: one
        for each row, which is slow.
    layer: of the vectors that texts are compared by: "words", "middle", "last" or a number.
    instruction: a sentence at the head of each prompt, for models that were trained with one.
    device: "auto" takes a GPU if there is one.

    Attributes
    ----------
    classes_: the labels, sorted [classes].

    Texts are strings, in any one-dimensional container or a single column; labels are anything that scikit-learn
    classifies.  Probabilities are softmax(-score), where the score is a label's mean negative log-likelihood per token:
    they rank labels, and are not calibrated.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "starter",
        *,
        revision: str | None = None,
        direction: Direction | None = None,
        choose: Choice | Literal["given"] = "random",
        demonstrations: int = 16,
        order: int = 0,
        calibrate: bool = False,
        seeds: int | Sequence[int] = 1,
        learner: str = "in-context",
        choose_groups: int = 0,
        layer: str | int = "words",
        instruction: str | None = None,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.revision = revision
        self.direction = direction
        self.choose = choose
        self.demonstrations = demonstrations
        self.order = order
        self.calibrate = calibrate
        self.seeds = seeds
        self.learner = learner
        self.choose_groups = choose_groups
        self.layer = layer
        self.instruction = instruction
        self.device = device

    def fit(self, X: Any, y: Any) -> InContextClassifier:
        """Keeps the labelled texts, and forgets earlier ones and what `adapt` learned."""
        texts, labels = _texts(X), _labels(y)
        check_consistent_length(texts, labels)
        self._check_parameters()
        self._adapted: LoadedModel | None = None
        self._examples: list[tuple[str, Any]] = []
        self.classes_ = np.unique(labels)
        return self._add(texts, labels)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> InContextClassifier:
        """Keeps more labelled texts. classes: all labels there will be, in the first call, if more come later."""
        texts, labels = _texts(X), _labels(y)
        check_consistent_length(texts, labels)
        if not hasattr(self, "classes_"):
            self._check_parameters()
            self._adapted, self._examples, self.classes_ = None, [], np.unique(labels)
        known = [self.classes_, labels] if classes is None else [self.classes_, labels, np.asarray(classes)]
        self.classes_ = np.unique(np.concatenate(known))
        return self._add(texts, labels)

    def _add(self, texts: list[str], labels: np.ndarray) -> InContextClassifier:
        if len(set(map(str, self.classes_))) < len(self.classes_):
            raise ValueError("two classes are the same as text; give labels that differ when they are written")
        self._examples = [*self._examples, *zip(texts, labels, strict=True)]
        return self

    def predict(self, X: Any, options: Sequence[Sequence[Any]] | None = None) -> np.ndarray:
        """The label of each text [texts]. options: the labels to choose from for each row, where rows differ."""
        scores = self.scores(X, options)
        if options is None:
            return self.classes_[np.argmin(scores, axis=1)] if len(scores) else self.classes_[:0]
        return np.array([row[int(np.argmin(s))] for row, s in zip(options, scores, strict=True)])

    def predict_proba(self, X: Any, options: Sequence[Sequence[Any]] | None = None) -> Any:
        """Probabilities [texts, classes] in the order of `classes_`; with `options` a list of arrays in their order."""
        scores = self.scores(X, options)
        return np.exp(-scores) if options is None else [np.exp(-row) for row in scores]

    def scores(self, X: Any, options: Sequence[Sequence[Any]] | None = None) -> Any:
        """Negative logarithms of `predict_proba`, in nats: the lowest is predicted."""
        check_is_fitted(self, "classes_")
        texts = _texts(X)
        if options is not None:
            check_consistent_length(texts, options)
        names = [tuple(map(str, row)) for row in options] if options is not None else []
        for row in names:
            if not row or len(set(row)) < len(row):
                raise ValueError(f"options are {row}; each row needs one at least, all different")
        every = tuple(map(str, self.classes_))
        bank = [Example(text, str(label), every) for text, label in self._examples]
        rows = [names[i] if names else every for i in range(len(texts))]
        queries = [Example(text, row[0], row) for text, row in zip(texts, rows, strict=True)]
        found = self._mean_scores(LabelledTask("classifier", bank, self.instruction), queries)
        if options is not None:
            return found
        scores = np.array(found).reshape(len(queries), len(every))
        if remark := one_label_for_nearly_all(
            [every[place] for place in scores.argmin(axis=1)], [e.output for e in bank]
        ):
            warnings.warn(f"{remark}; try calibrate=True, learner='logistic' or choose='nearest'", stacklevel=3)
        elif remark := self._length_bias([every[place] for place in scores.argmin(axis=1)]):
            warnings.warn(f"{remark}; give labels names of about the same length, or calibrate=True", stacklevel=3)
        return scores

    def _length_bias(self, predicted: Sequence[str]) -> str | None:
        """A sentence when a model in its context prefers the label that is longest, or shortest, in tokens."""
        if self.learner != "in-context":
            return None
        length = {str(label): len(self._loaded().tokenizer(str(label))["input_ids"]) for label in self.classes_}
        return length_preferred(predicted, [str(label) for _, label in self._examples], length)

    def adapt(
        self, lr: float = 1e-5, examples: int = 16, max_tokens: int = 256, seed: int = 100
    ) -> InContextClassifier:
        """Trains a copy of the model on some of the kept texts, one AdamW step on each (the paper's table 4, whose
        learning rate is 1e-7), until `fit` is called again."""
        from .evaluation.adaptation import learn, prompts_of_each
        from .models import trainable_parameters

        check_is_fitted(self, "classes_")
        if self.learner != "in-context":
            raise ValueError(f"learner={self.learner} does not read the model's predictions, which `adapt` changes")
        model, every = copy.copy(self._loaded()), tuple(map(str, self.classes_))
        model.network = copy.deepcopy(model.network)
        model.__dict__.pop("scorer", None)
        generator = random_generator("adaptation", "classifier", seed)
        drawn = [self._examples[i] for i in generator.permutation(len(self._examples))[:examples]]
        shown = [Example(text, str(label), every) for text, label in drawn]
        prompts = prompts_of_each(shown, self._style(), model.tokenizer, self.instruction, max_tokens, generator)
        learn(model.network, {n: p.detach() for n, p in trainable_parameters(model.network).items()}, prompts, lr)
        self._adapted = model
        return self

    def _mean_scores(self, task: LabelledTask, queries: list[Example]) -> list[np.ndarray]:
        """Minus the logarithm of the mean over draws of each option's probability."""
        if not queries:
            return []
        predictor, seeds = self._predictor(), _seeds(self.seeds)
        if isinstance(predictor, InContext):
            warn_of_cut_demonstrations(predictor, task, queries[:ROWS_AT_ONCE], seeds[0])
        grouped = self.choose_groups > 0  # groups are made of all rows of a call
        size = len(queries) if grouped else ROWS_AT_ONCE
        found: list[np.ndarray] = []
        many = len(queries) >= ROWS_FOR_A_BAR
        with track("predict", len(queries), "rows") if many else nullcontext() as progress:
            for start in range(0, len(queries), size):
                part = queries[start : start + size]
                draws = [predictor.scores(task, part, seed, self.order) for seed in seeds]
                for rows in zip(*draws, strict=True):
                    logs = np.array([log_softmax(-np.array(row)) for row in rows])
                    found.append(np.log(len(seeds)) - logsumexp(logs, axis=0))
                if progress is not None:
                    progress.advance(len(part))
        return found

    def _predictor(self) -> Predictor:
        count = min(self.demonstrations, len(self._examples))
        if self.choose == "given":
            count = len(self._examples)
        if self.learner != "in-context":
            head = head_type(self.learner)()
            features = features_of(self._loaded(), self.layer) if head.reads == "vectors" else None
            return FromFeatures(head, count, features, self._select())
        model, style = self._loaded(), self._style()
        limit = getattr(model.network.config, "max_position_embeddings", None) or style.format.max_tokens
        form = replace(
            style.format,
            max_tokens=min(style.format.max_tokens, limit),
            max_tokens_per_example=min(style.format.max_tokens_per_example, limit),
        )
        return InContext(model, replace(style, format=form, demonstrations=count), self._select(), self.calibrate)

    def _select(self) -> Select:
        if self.choose == "given":
            return AsGiven()
        return selection_with(self._loaded(), self.choose, self.choose_groups, self.layer)

    def _style(self) -> PromptStyle:
        style = method_of_model(read_provenance(self._pinned())).prompts_at_test()
        if style.instructed and not self.instruction:
            warnings.warn(
                "the model was trained with an instruction at the head of each prompt; give one", stacklevel=4
            )
        # Cut from the left, a prompt is the same whatever other rows a call has.
        form = replace(
            style.format,
            overflow="left",
            direction=self.direction or style.format.direction,
        )
        return replace(style, format=form, instructed=bool(self.instruction))

    def _loaded(self) -> LoadedModel:
        return getattr(self, "_adapted", None) or _load(self._pinned(), self.device)

    def _pinned(self) -> str:
        return pinned(os.fspath(self.model), self.revision)

    def _check_parameters(self) -> None:
        if self.demonstrations < 1:
            raise ValueError(f"demonstrations is {self.demonstrations}; it must be at least 1")
        _seeds(self.seeds)
        allowed = {"choose": ("given", *get_args(Choice)), "direction": (None, *get_args(Direction))}
        for name, words in allowed.items():
            if getattr(self, name) not in words:
                known = ", ".join(word for word in words if word)
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {known}")
        if self.choose_groups and self.choose not in ("bm25", "nearest"):
            raise ValueError(f"choose={self.choose} shows all rows the same demonstrations; leave choose_groups out")
        if self.learner == "in-context":
            if self.calibrate and self._style().format.direction == "channel":
                raise ValueError("calibrate is read in the direct direction only; leave it out")
            return
        if head_type(self.learner).meta_trained:
            raise ValueError(f"learner={self.learner} needs training tasks; `maml-en-llm evaluate` has them")
        unread = {"calibrate": False, "direction": None, "instruction": None, "choose_groups": 0, "order": 0}
        for name, unset in unread.items():
            if getattr(self, name) != unset:
                raise ValueError(f"{name} is set but learner={self.learner} does not read it; leave it out")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


def warn_of_cut_demonstrations(predictor: InContext, task: LabelledTask, queries: list[Example], seed: int) -> None:
    """Warns when not all demonstrations of the first query fit in front of the longest of `queries`."""
    form, tokenizer, count = predictor.style.format, predictor.model.tokenizer, predictor.style.demonstrations
    head = form.encode_instruction(tokenizer, task.instruction) if predictor.style.instructed else []
    (chosen,) = predictor.select(task.bank, queries[:1], count, random_generator("demonstrations", task.name, seed))
    shown = form.encode_prompt(tokenizer, [task.bank[index] for index in chosen], first=not head)
    longest = max(len(target) for some in form.encode_all_targets(tokenizer, queries, first=False) for target in some)
    room, fitting = form.behind(head).max_tokens - longest, 0
    for demonstration in reversed(shown):
        room -= len(demonstration)
        fitting += room >= 0
    if fitting < len(shown):
        warnings.warn(
            f"only the last {fitting} of {len(shown)} demonstrations fit in {form.max_tokens} tokens in front of the "
            "longest text, the others are cut; use fewer or shorter ones",
            stacklevel=5,
        )


def predict_to_file(
    classifier: InContextClassifier,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    column: str,
    options: str | None = None,
) -> Predicted:
    """Writes the rows of `source` with the predictions for the texts in `column` to `output` (prediction/files.py).

    options: the column of each row's options, where rows differ. Prints what a user should know; ValueError for files
    that cannot be used. Processes that torchrun started share the rows.
    """
    processes = join(pick_device(classifier.device))
    said: set[str] = set()

    def scores(texts: list[str], rows: list[list[str]]) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = classifier.scores(texts, rows if options else None)
        for message in (str(warning.message) for warning in caught):
            if " predicted for " not in message and message not in said:  # that is said of the whole file
                console.print(message, markup=False)
                said.add(message)
        return found

    stamp = weights_stamp(classifier._pinned())
    described = repr((sorted(classifier.get_params().items(), key=str), classifier._examples, stamp))
    labels = list(map(str, classifier.classes_))
    asked = Asked(column, options)
    done = predict_file(Path(source), Path(output), asked, labels, scores, described, processes)
    if done.bad:
        console.print(f"{done.bad} rows could not be predicted; {done.bad_rows} has them and the reasons", markup=False)
    predicted, known = list(done.counts.elements()), [str(label) for _, label in classifier._examples]
    if remark := one_label_for_nearly_all(predicted, known):
        console.print(f"{remark}; try --calibrate, --learner logistic or --choose nearest", markup=False)
    elif options is None and (remark := classifier._length_bias(predicted)):
        console.print(f"{remark}; give labels names of about the same length, or try --calibrate", markup=False)
    return done


def one_label_for_nearly_all(predicted: Sequence[str], labelled: Sequence[str]) -> str | None:
    """A sentence when nearly all of at least 50 predictions are one label that is not nearly as common among those that
    are known."""
    label, count = Counter(predicted).most_common(1)[0] if predicted else ("", 0)
    share = labelled.count(label) / len(labelled)
    known = f"{100 * share:.0f} % of the labelled texts"
    if len(predicted) < 50 or count < 0.95 * len(predicted) or share > 0.8:
        return None
    return f"{label!r} is predicted for {count} of {len(predicted)} rows, though {known} have it"


def length_preferred(predicted: Sequence[str], labelled: Sequence[str], length: Mapping[str, int]) -> str | None:
    """A sentence when the one longest, or shortest, label is predicted for at least 50 rows by 25 points more often
    than those that are known have it."""
    if len(predicted) < 50:
        return None
    for word, extreme in (("longest", max(length.values())), ("shortest", min(length.values()))):
        those = [label for label, tokens in length.items() if tokens == extreme]
        if len(those) == 1:
            share, known = (list(some).count(those[0]) / len(some) for some in (predicted, labelled))
            if share - known > 0.25:
                return (
                    f"the {word} label, {those[0]!r}, is predicted for {100 * share:.0f} % of the rows, though "
                    f"{100 * known:.0f} % of the labelled texts have it"
                )
    return None


@lru_cache(maxsize=2)
def _load(model: str, device: str) -> LoadedModel:
    return LoadedModel(model, pick_device(device))


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds themselves, or as many as said: the protocol's, then 1, 2, ..."""
    if isinstance(seeds, int):
        if seeds < 1:
            raise ValueError(f"seeds is {seeds}; it must be at least 1")
        return (*PROTOCOL_SEEDS, *range(1, seeds))[:seeds]
    if not len(seeds):
        raise ValueError("seeds is empty; give at least one")
    return tuple(seeds)


def _texts(X: Any) -> list[str]:
    """The texts of a container, of one dimension or one column; ValueError when it holds something else."""
    if isinstance(X, str) or not isinstance(X, Iterable):
        raise ValueError(f"X is {type(X).__name__}; give a list of texts")
    values = X.to_numpy() if hasattr(X, "to_numpy") else X
    found = values if isinstance(values, np.ndarray) else list(values)
    if isinstance(found, np.ndarray):
        if found.ndim == 2 and found.shape[1] == 1:
            found = found[:, 0]
        if found.ndim != 1:
            raise ValueError(f"X has the shape {found.shape}; give one text for each row")
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise ValueError(f"X[{place}] is {type(text).__name__}, not a text; drop the row or write it as text")
    return [str(text) for text in found]


def _labels(y: Any) -> np.ndarray:
    labels = column_or_1d(y, warn=True)
    check_classification_targets(labels)
    if len(labels) == 0:
        raise ValueError("there are no labelled texts; give at least one")
    return labels
