"""What spoils results without being an error: duplicates, label words that collide, lost inputs, odd encodings.

The findings and statistics are plain data; `tasks check` prints them and writes them as JSON, a report can show them.
Near duplicates are found with MinHash over runs of three words, in numpy, for all examples of a collection at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..tasks.collection import SPLITS, Collection, Example, parse_line
from ..tasks.writing import question
from .labels import look_alikes

NEAR = 0.8  # estimated share of common word runs from which two inputs count as near duplicates
HASHES, BANDS = 24, 6  # MinHash values of an input, and the groups of them that must agree once to compare two
LEAST_WORDS = 8  # shorter inputs are too alike to be compared
SHOWN = 3  # places named in a finding

# Control characters, U+FFFD, lone surrogates, UTF-8 read as Windows-1252, marks, HTML character codes.
SUSPICIOUS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ufeff\ud800-\udfff]|Ã[\x80-\xbf©¨¼¶¤±¡]|â€|Â[\xa0-\xbf]|&(?:[a-z]{2,6}|#\\d{2,5});"
)


@dataclass(frozen=True)
class Finding:
    """One kind of trouble in a task: how often, and where the first ones are."""

    task: str
    what: str  # a short fixed word, such as near-duplicate
    count: int
    message: str
    places: tuple[str, ...] = ()


@dataclass
class TaskStatistics:
    """Numbers of one task; a report shows them."""

    name: str
    kind: str
    examples: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)  # outputs of the train split, for tasks with fixed options
    distinct_outputs: int = 0
    options: tuple[int, int] = (0, 0)  # fewest and most
    input_characters: tuple[int, int, int] = (0, 0, 0)  # least, median, most
    output_characters: tuple[int, int, int] = (0, 0, 0)
    truncated: int | None = None  # inputs that lose tokens, with a tokenizer


@dataclass
class Quality:
    """What `examine` found in a collection."""

    statistics: dict[str, TaskStatistics]
    findings: list[Finding]

    def of(self, task: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.task == task]

    def as_json(self) -> dict[str, Any]:
        return {
            "tasks": {
                name: dataclasses.asdict(numbers) | {"findings": [_plain(finding) for finding in self.of(name)]}
                for name, numbers in self.statistics.items()
            }
        }


def _plain(finding: Finding) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(finding).items() if key != "task"}


@dataclass
class _Texts:
    """Inputs of all splits of all tasks in one row, with where each stands."""

    names: list[str]
    normal: list[bytes] = field(default_factory=list)
    task: list[int] = field(default_factory=list)
    split: list[int] = field(default_factory=list)
    line: list[int] = field(default_factory=list)

    def place(self, index: int) -> str:
        return f"{self.names[self.task[index]]}/{SPLITS[self.split[index]]}.jsonl:{self.line[index]}"


def statistics_of(collection: Collection, names: Sequence[str] | None = None) -> dict[str, TaskStatistics]:
    """The statistics alone, of all or some tasks; lines that are not good examples are skipped."""
    chosen = list(collection) if names is None else list(names)
    return {name: _statistics(collection, name, dict(_good_examples(collection, name))) for name in chosen}


def examine(collection: Collection, tokenizer: Any = None, limit: int = 256) -> Quality:
    """Statistics and findings of a collection; lines that are not good examples are skipped (`tasks check` names them).

    tokenizer: a Hugging Face tokenizer, for what depends on tokens; limit: tokens of an example, two of them kept free.
    """
    texts = _Texts(list(collection))
    counter = TokenCounter(tokenizer)
    numbers: dict[str, TaskStatistics] = {}
    findings: list[Finding] = []
    for position, name in enumerate(texts.names):
        splits = dict(_good_examples(collection, name))
        numbers[name] = _statistics(collection, name, splits)
        for split, examples in splits.items():
            own = not numbers[name].labels
            texts.normal += [_normal(example.input, example.options if own else ()) for _, example in examples]
            texts.line += [line for line, _ in examples]
            texts.task += [position] * len(examples)
            texts.split += [SPLITS.index(split)] * len(examples)
        findings += _label_findings(numbers[name], splits)
        findings += _encoding_findings(name, splits)
        if tokenizer is not None:
            findings += _token_findings(numbers[name], splits, tokenizer, counter, limit)
    findings += _duplicate_findings(collection, texts)
    return Quality(numbers, findings)


Numbered = list[tuple[int, Example]]


def _good_examples(collection: Collection, name: str) -> Iterator[tuple[str, Numbered]]:
    """Per split the good examples with their line numbers."""
    for split in SPLITS:
        path = collection[name].folder / f"{split}.jsonl"
        if not path.is_file():
            continue
        found = []
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            example = parse_line(line, name)[0] if line else None
            if example is not None:
                found.append((number, example))
        yield split, found


def _statistics(collection: Collection, name: str, splits: Mapping[str, Numbered]) -> TaskStatistics:
    everything = [example for examples in splits.values() for _, example in examples]
    numbers = TaskStatistics(name, "free_form", {split: len(examples) for split, examples in splits.items()})
    if not everything:
        return numbers
    numbers.kind = collection[name].declared_kind or _kind(everything)
    outputs = Counter(example.output for _, example in splits.get("train", ()))
    numbers.distinct_outputs = len({example.output for example in everything})
    if everything[0].options and len({example.options for example in everything}) == 1:
        numbers.labels = {option: outputs.get(option, 0) for option in everything[0].options}
    counts = [len(example.options) for example in everything]
    numbers.options = (min(counts), max(counts))
    numbers.input_characters = _spread([len(example.input) for example in everything])
    numbers.output_characters = _spread([len(example.output) for example in everything])
    return numbers


def _kind(examples: Sequence[Example]) -> str:
    options = {example.options for example in examples[:100]}
    if options == {()}:
        return "free_form"
    return "classification" if len(options) == 1 else "multiple_choice_qa"


def _spread(numbers: Sequence[int]) -> tuple[int, int, int]:
    return int(np.min(numbers)), int(np.median(numbers)), int(np.max(numbers))


def _label_findings(numbers: TaskStatistics, splits: Mapping[str, Numbered]) -> Iterator[Finding]:
    """Label distributions that cannot teach or measure anything."""
    train = splits.get("train", [])
    total = len(train)
    if numbers.labels and total:
        absent = [label for label, count in numbers.labels.items() if count == 0]
        if absent:
            message = f"{', '.join(absent[:5])} never occurs in train; add examples or drop the label"
            yield Finding(numbers.name, "label-absent", len(absent), message)
        if alike := look_alikes(numbers.labels):
            message = "labels that look alike: " + ", ".join(f"{one!r} and {other!r}" for one, other in alike[:5])
            yield Finding(numbers.name, "label-alike", len(alike), message)
        yield from _contradictions(numbers.name, splits)
        label, most = max(numbers.labels.items(), key=lambda item: item[1])
        if most > 0.95 * total:
            message = f"{label!r} is the output of {most} of {total} train examples"
            yield Finding(numbers.name, "label-dominant", most, message)
    elif numbers.options[1] and total >= 20:
        positions = Counter(example.options.index(example.output) for _, example in train if example.options)
        place, most = positions.most_common(1)[0]
        if most > 0.9 * total:
            message = f"option {place + 1} is the right one in {most} of {total} train examples; shuffle the options"
            yield Finding(numbers.name, "position-dominant", most, message)
    elif total >= 20 and numbers.distinct_outputs == 1:
        yield Finding(numbers.name, "output-constant", total, "all outputs are the same")


def _contradictions(name: str, splits: Mapping[str, Numbered]) -> Iterator[Finding]:
    """Inputs that stand there with several labels."""
    first: dict[str, tuple[str, str]] = {}
    places = []
    for split, examples in splits.items():
        for line, example in examples:
            place = f"{name}/{split}.jsonl:{line}"
            label, earlier = first.setdefault(question(example), (example.output, place))
            if label != example.output:
                places.append(f"{earlier} and {place}")
    if places:
        message = "inputs stand there again with another label; decide which is right"
        yield Finding(name, "contradiction", len(places), message, tuple(places[:SHOWN]))


def _encoding_findings(name: str, splits: Mapping[str, Numbered]) -> Iterator[Finding]:
    places = []
    for split, examples in splits.items():
        for line, example in examples:
            text = f"{example.input}\n{example.output}"
            if (not text.isascii() or "&" in text or not text.isprintable()) and SUSPICIOUS.search(text):
                places.append(f"{name}/{split}.jsonl:{line}")
    if places:
        message = "control characters, broken UTF-8 or HTML codes in the text; repair the source's encoding"
        yield Finding(name, "encoding", len(places), message, tuple(places[:SHOWN]))


def _token_findings(
    numbers: TaskStatistics, splits: Mapping[str, Numbered], tokenizer: Any, counter: TokenCounter, limit: int
) -> Iterator[Finding]:
    """Label words without tokens of their own, outputs that are cut, inputs that are cut."""
    room = limit - 2
    if numbers.labels:
        words = list(numbers.labels)
        by_ids = defaultdict(list)
        for word, ids in zip(words, tokenizer(["\n" + word for word in words], **_QUIET)["input_ids"], strict=True):
            by_ids[tuple(ids)].append(word)
        blank = tuple(tokenizer(["\n"], **_QUIET)["input_ids"][0])
        for ids, same in by_ids.items():
            if ids in (blank, ()):
                message = f"the label {same[0]!r} tokenizes to nothing; choose another word"
                yield Finding(numbers.name, "label-empty", len(same), message)
            elif len(same) > 1:
                message = f"the labels {', '.join(map(repr, same))} have the same token ids; choose other words"
                yield Finding(numbers.name, "label-same", len(same), message)
    cut: list[str] = []
    long: list[str] = []
    for split, examples in splits.items():
        written = counter.counts("\n", [example.output for _, example in examples])
        # What has no more bytes than there is room for tokens cannot be cut.
        close = [
            number
            for number, (_, example) in enumerate(examples)
            if len(example.input.encode("utf-8", "replace")) + min(written[number], room) + 3 > room
        ]
        read = dict(zip(close, counter.counts("\n\n\n", [examples[n][1].input for n in close]), strict=True))
        for number, (line, _) in enumerate(examples):
            if written[number] > room:
                long.append(f"{numbers.name}/{split}.jsonl:{line}")
            if read.get(number, 0) + min(written[number], room) > room:
                cut.append(f"{numbers.name}/{split}.jsonl:{line}")
    numbers.truncated = len(cut)
    if long:
        message = f"outputs of more than {room} tokens are cut; shorten them or raise --max-tokens-per-example"
        yield Finding(numbers.name, "output-long", len(long), message, tuple(long[:SHOWN]))
    if cut:
        message = f"of {sum(map(len, splits.values()))} inputs lose their end to the limit of {limit} tokens an example"
        yield Finding(numbers.name, "input-truncated", len(cut), message, tuple(cut[:SHOWN]))


class TokenCounter:
    """Tokens of texts, each word tokenized once however often it occurs.

    Exact for tokenizers that never join what a blank separates, such as GPT-2's, on texts with single blanks; close
    for others.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, dict[str, int]] = {}  # what stands in front -> word -> tokens

    def counts(self, separator: str, texts: Sequence[str]) -> list[int]:
        """Tokens of `separator` + text for each text."""
        words = [text.split(" ") for text in texts]
        first = self._counted(separator, {parts[0] for parts in words})
        later = self._counted(" ", {word for parts in words for word in parts[1:]})
        return [first[parts[0]] + sum(map(later.__getitem__, parts[1:])) for parts in words]

    def _counted(self, before: str, words: set[str]) -> dict[str, int]:
        known = self._known.setdefault(before, {})
        new = [word for word in words if word not in known]
        fast = getattr(self._tokenizer, "backend_tokenizer", None)  # without the cost of a Python object a word
        for start in range(0, len(new), 8192):
            part = new[start : start + 8192]
            texts = [before + word for word in part]
            if fast is not None:
                ids = fast.encode_batch_fast(texts, add_special_tokens=False)
            else:
                ids = self._tokenizer(texts, **_QUIET)["input_ids"]
            known.update(zip(part, map(len, ids), strict=True))
        return known


_QUIET = {"add_special_tokens": False, "verbose": False}


# ---- duplicates

_LETTERS = bytes(
    byte if byte >= 128 or chr(byte).isalnum() else 32 for byte in bytes(range(256)).lower()
)  # lower case; what is no letter or digit becomes a blank


def _normal(text: str, options: Sequence[str] = ()) -> bytes:
    """The words of an input (and its own options) in lower case with single blanks, as UTF-8."""
    whole = "\n".join((text, *options)) if options else text
    return b" ".join(whole.encode("utf-8", "replace").translate(_LETTERS).split())


def _duplicate_findings(collection: Collection, texts: _Texts) -> Iterator[Finding]:
    """Inputs that stand twice, exactly or nearly: within a split, across splits, on both sides of a setting."""
    total = len(texts.normal)
    if not total:
        return
    exact = np.frombuffer(
        b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts.normal), dtype=np.uint64
    )
    task, split = np.array(texts.task), np.array(texts.split)
    pairs = [("duplicate", "the same as", *_exact_pairs(exact, task, split))]
    pairs.append(("near-duplicate", "nearly the same as", *_near_pairs(texts.normal, exact, task, split)))
    sides = {name: (set(setting.train), set(setting.test)) for name, setting in _readable_settings(collection)}
    for what, words, left, right in pairs:
        within: dict[tuple[int, int, int], list[tuple[int, int]]] = defaultdict(list)
        between: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            if task[one] == task[other]:
                key = (int(task[one]), min(int(split[one]), int(split[other])), max(int(split[one]), int(split[other])))
                within[key].append((one, other))
            else:
                between[int(task[one]), int(task[other])].setdefault(one, other)
        for (owner, first, second), found in sorted(within.items()):
            if first == second:
                count = len({max(pair) for pair in found})
                message = f"{SPLITS[first]} inputs are {words} an earlier one (several questions on one text count)"
            else:
                count = len({one if split[one] == second else other for one, other in found})
                message = (
                    f"{SPLITS[second]} inputs are {words} one in {SPLITS[first]}; leave them out of one of the two"
                )
            kind = what if first == second else f"{what}-across-splits"
            shown = tuple(f"{texts.place(a)} and {texts.place(b)}" for a, b in sorted(found)[:SHOWN])
            yield Finding(texts.names[owner], kind, count, message, shown)
        for (target, source), partners in sorted(between.items()):
            concerned = sorted(
                setting
                for setting, (train, test) in sides.items()
                if texts.names[target] in test and texts.names[source] in train
            )
            if not concerned:
                continue
            message = (
                f"test inputs are {words} train inputs of {texts.names[source]}, "
                f"which {', '.join(concerned)} trains on; leave that task or these examples out"
            )
            shown = tuple(f"{texts.place(a)} and {texts.place(b)}" for a, b in sorted(partners.items())[:SHOWN])
            yield Finding(texts.names[target], f"{what}-across-tasks", len(partners), message, shown)


def _readable_settings(collection: Collection) -> Iterator[tuple[str, Any]]:
    for name in collection.setting_names:
        try:
            yield name, collection.setting(name)
        except (ValueError, AttributeError, TypeError):
            continue  # `tasks check` says what is wrong with it


Pairs = tuple[np.ndarray, np.ndarray]


def _grouped(keys: np.ndarray) -> Iterator[np.ndarray]:
    """The positions of every key that stands more than once."""
    order = np.argsort(keys, kind="stable")
    inner = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], inner[1:] != inner[:-1]]))
    sizes = np.diff(np.append(starts, len(keys)))
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        yield order[start : start + size]


def _partners(group: np.ndarray, task: np.ndarray, split: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of a group that matter: each later example of a task with the first of each of its splits, and each test
    example with one train example of every other task. Few, however large the group."""
    first: dict[tuple[int, int], int] = {}
    for member in group.tolist():
        first.setdefault((int(task[member]), int(split[member])), member)
    sources = {owner: member for (owner, part), member in first.items() if part == 0}
    for member in group.tolist():
        owner, part = int(task[member]), int(split[member])
        for earlier in range(part + 1):
            partner = first.get((owner, earlier))
            if partner is not None and partner != member:
                yield member, partner
        if part == 2:
            for source, partner in sources.items():
                if source != owner:
                    yield member, partner


def _exact_pairs(exact: np.ndarray, task: np.ndarray, split: np.ndarray) -> Pairs:
    found = [pair for group in _grouped(exact) for pair in _partners(group, task, split)]
    return _columns(found)


def _columns(found: Sequence[tuple[int, int]]) -> Pairs:
    array = np.array(found, dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _near_pairs(normal: Sequence[bytes], exact: np.ndarray, task: np.ndarray, split: np.ndarray) -> Pairs:
    """Pairs of inputs whose MinHash values agree in at least NEAR of the places; equal inputs are not among them."""
    signatures, long_enough = min_hashes(normal)
    members = np.flatnonzero(long_enough)
    rows = HASHES // BANDS
    found: set[tuple[int, int]] = set()
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[members, band * rows : (band + 1) * rows])
        keys = part.view([("", part.dtype)] * rows).reshape(-1)
        _, keys = np.unique(keys, return_inverse=True)
        candidates = [pair for group in _grouped(keys) for pair in _partners(members[group], task, split)]
        left, right = _columns(candidates)
        for start in range(0, len(left), 1 << 18):
            one, other = left[start : start + (1 << 18)], right[start : start + (1 << 18)]
            alike = (signatures[one] == signatures[other]).mean(axis=1) >= NEAR
            alike &= exact[one] != exact[other]
            found.update(zip(one[alike].tolist(), other[alike].tolist(), strict=True))
    return _columns(sorted(found))


_ODD = np.uint64(0x9E3779B97F4A7C15)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spreads the bits of uint64 values (a finalizer of the splitmix kind)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def min_hashes(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """MinHash values uint32 [texts, HASHES] over runs of three words, and whether a text has LEAST_WORDS words.

    texts: words between single blanks. The share of equal values of two texts estimates the share of common runs.
    """
    signatures = np.zeros((len(texts), HASHES), dtype=np.uint32)
    long_enough = np.zeros(len(texts), dtype=bool)
    generator = np.random.default_rng(7)
    factors = (generator.integers(1, 1 << 31, HASHES, dtype=np.uint64) << np.uint64(1)) + np.uint64(1)
    chunk: list[int] = []
    size = 0
    for index, text in enumerate(texts):
        if text.count(b" ") + 1 >= LEAST_WORDS:
            long_enough[index] = True
            chunk.append(index)
            size += len(text) + 1
        if size > (1 << 20) or (index == len(texts) - 1 and chunk):
            _hash_chunk([texts[i] for i in chunk], np.array(chunk), factors, signatures)
            chunk, size = [], 0
    return signatures, long_enough


def _hash_chunk(texts: Sequence[bytes], rows: np.ndarray, factors: np.ndarray, signatures: np.ndarray) -> None:
    """Fills the rows of `signatures` for texts of at least three words each."""
    data = np.frombuffer(b" ".join(texts) + b" ", dtype=np.uint8)
    ends = np.flatnonzero(data == 32)  # of every word
    starts = np.concatenate([[0], ends[:-1] + 1])
    # A word's hash comes from sums of byte * weight(place in the word), so that a whole chunk takes a few passes.
    place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    weights = _mixed((place.astype(np.uint64) + np.uint64(1)) * _ODD)
    spread = _mixed(np.arange(256, dtype=np.uint64) * _ODD + np.uint64(1))
    words = _mixed(np.add.reduceat(spread[data] * weights, starts))
    runs = _mixed(words[:-2] + words[1:-1] * np.uint64(3) + words[2:] * np.uint64(0x10001))
    counts = np.array([text.count(b" ") + 1 for text in texts])
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    # Runs that cross into the next text must never be the least: only the first counts - 2 of a text are its own.
    own = np.ones(len(runs) + 2, dtype=bool)
    own[firsts + counts - 1] = own[firsts + counts - 2] = False
    runs = runs[own[: len(runs)]]
    begins = np.concatenate([[0], np.cumsum(counts - 2)[:-1]])
    for column, factor in enumerate(factors):
        values = ((runs * factor) >> np.uint64(32)).astype(np.uint32)
        signatures[rows, column] = np.minimum.reduceat(values, begins)
