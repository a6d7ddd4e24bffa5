"""Evaluation: shared-prefix scoring against the reference procedure, in one run, on the same examples and model.

The reference procedure, written anew after its description: every option of every test example is a row of
demonstrations + input + option, padded to 1,024 tokens, 16 rows in a batch, logits over the whole vocabulary at every
position, cross entropy at every position and then masked.  Since all rows are padded to one length, they cost the same
whatever they hold: one batch of 16 is run, and a few rows of every further task.

    python benchmarks/evaluation.py  # the table: ratios of time per example, and peak memory
    python benchmarks/evaluation.py --plot-to docs/performance/evaluation.svg     # plots
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from common import PADDED, emit, in_child, make_model, open_collection, open_tokenizer, seconds, table
from maml_en_llm import Example, PromptFormat
from maml_en_llm.evaluation.protocol import score_targets
from maml_en_llm.prediction.scoring import Scorer
from maml_en_llm.prompts.demonstrations import fixed_demonstrations
from maml_en_llm.prompts.layout import EncodedPrompt

# (task, direction, overflow): 2 to 14 options, short and long inputs; the last ones overflow.
CASES = (
    ("poem_sentiment", "direct", "fit"),
    ("tweet_eval-hate", "direct", "fit"),
    ("financial_phrasebank", "direct", "fit"),
    ("ag_news", "direct", "fit"),
    ("dbpedia_14", "direct", "fit"),
    ("poem_sentiment", "channel", "fit"),
    ("yelp_polarity", "direct", "fit"),
    ("yelp_polarity", "direct", "left"),
    ("dbpedia_14", "direct", "left"),
)
STARTER_CASES = tuple(
    (task, "direct", "fit") for task in ("food-or-tool", "place-or-animal", "animal-foo", "opinion-foo")
)


def reference_scores(model, prompts: list[EncodedPrompt], batch_size: int = 16) -> list[float]:
    """The reference procedure: mean negative log-likelihood of each prompt's answer."""
    scores: list[float] = []
    token_ids = torch.zeros(len(prompts), PADDED, dtype=torch.long)
    attention_mask = torch.zeros(len(prompts), PADDED, dtype=torch.long)
    answer_mask = torch.zeros(len(prompts), PADDED, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        length = len(prompt.token_ids)
        token_ids[row, :length] = torch.tensor(prompt.token_ids)
        attention_mask[row, :length] = 1
        answer_mask[row, :length] = torch.tensor(prompt.answer_mask, dtype=torch.long)
    with torch.no_grad():
        for start in range(0, len(prompts), batch_size):
            rows = slice(start, start + batch_size)
            logits = model(input_ids=token_ids[rows], attention_mask=attention_mask[rows]).logits
            logits = logits[:, :-1].contiguous()
            losses = torch.nn.functional.cross_entropy(
                logits.view(-1, logits.shape[-1]), token_ids[rows, 1:].reshape(-1), reduction="none"
            ).view(-1, PADDED - 1)
            mask = answer_mask[rows, 1:]
            scores += ((losses * mask).sum(dim=1) / mask.sum(dim=1)).tolist()
    return scores


@dataclass
class Case:
    """One task's test examples behind its demonstrations, ready for both procedures."""

    task: str
    direction: str
    overflow: str
    examples: int

    def __post_init__(self) -> None:
        collection, _ = open_collection()
        self.tokenizer = open_tokenizer(collection)
        self.form = PromptFormat(self.direction, "metaicl", overflow=self.overflow)
        task = collection[self.task]
        self.test = task.test[: self.examples]
        self.shown = fixed_demonstrations(task.train, 16, self.task, 100)

    def ours(self, scorer: Scorer) -> tuple[list[list[float]], int]:
        """Scores and how many examples were cut on their own; everything from text to scores."""
        prefix = self.form.encode_demonstrations(self.tokenizer, self.shown)
        targets = self.form.encode_all_targets(self.tokenizer, self.test, first=False)
        scores, alone = score_targets(self.form, scorer, prefix, targets)
        return scores, len(alone)

    def prompts(self, rows: int) -> list[EncodedPrompt]:
        """The first rows of the reference procedure, which cuts from the left; with `fit` the prompts as cut by it."""
        targets = self.form.encode_all_targets(self.tokenizer, self.test, first=False)
        longest = max(len(target) for options in targets for target in options)
        found: list[EncodedPrompt] = []
        for example in self.test:
            found += self.form.encode_options(self.tokenizer, self.shown, example, longest)
            if len(found) >= rows:
                break
        return found[:rows]


def child(side: str, cases: list[tuple[str, str, str]], examples: int, rows: int, repeats: int) -> None:
    """Measures one side and prints a JSON line per case."""
    model = make_model()
    for number, (task, direction, overflow) in enumerate(cases):
        case = Case(task, direction, overflow, examples if direction == "direct" else examples // 4)
        if side == "reference":
            prompts = case.prompts(16 if number == 0 else rows)
            scores: list[float] = []
            seconds_per_row = seconds(lambda: scores.extend(reference_scores(model, prompts))) / len(prompts)  # noqa: B023
            emit(seconds=seconds_per_row, scores=scores)
            continue
        times, found = [], []
        for _ in range(repeats):
            times.append(seconds(lambda: found.append(case.ours(Scorer(model)))))  # noqa: B023
        scores_of, alone = found[0]
        emit(
            seconds=statistics.median(times) / len(case.test),
            scores=[s for values in scores_of for s in values],
            options=statistics.mean(len(values) for values in scores_of),
            tokens=statistics.mean(len(p.token_ids) for p in case.prompts(64)),
            cut_alone=alone / len(case.test),
            cut=max(0, len(case.form.encode_demonstrations(case.tokenizer, case.shown)) - max_prefix(case)),
        )


def max_prefix(case: Case) -> int:
    """Tokens of demonstrations that leave room for the longest test example."""
    targets = case.form.encode_all_targets(case.tokenizer, case.test, first=False)
    return case.form.max_tokens - max(len(target) for options in targets for target in options)


def plot(output: Path, repeats: int) -> None:
    """Ratio of reference to ours against demonstrations, options and model size, on made-up and real short examples."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    collection, real = open_collection()
    tokenizer = open_tokenizer(collection)
    task = collection["poem_sentiment" if real else "food-or-tool"]
    test, count = task.test[:24], 24

    def ours(model, k: int, options: tuple[str, ...] | None = None) -> float:
        form = PromptFormat(max_tokens=2048)
        examples = [e if options is None else Example(e.input, options[0], options) for e in test]
        shown = fixed_demonstrations(task.train, k, task.name, 100) if k else []
        scorer = Scorer(model)

        def run() -> None:
            prefix = form.encode_demonstrations(tokenizer, shown)
            score_targets(form, scorer, prefix, form.encode_all_targets(tokenizer, examples, first=not k))

        run()
        return statistics.median(seconds(run) for _ in range(repeats)) / count

    def reference_row(model) -> float:
        prompt = EncodedPrompt([1] * PADDED, [False] * (PADDED - 2) + [True] * 2)
        return statistics.median(seconds(lambda: reference_scores(model, [prompt])) for _ in range(repeats))

    model = make_model(context=2048)
    row, labels = reference_row(model), len(test[0].options)
    shots = [0, 1, 4, 16, 32, 64]
    by_shots = [labels * row / ours(model, k) for k in shots]
    numbers = [2, 4, 8, 16, 32, 64]
    words = tuple(f"option {i}" for i in range(max(numbers)))
    by_options = [n * row / ours(model, 16, words[:n]) for n in numbers]
    sizes = [(2, 128), (4, 256), (6, 512), (12, 768)]
    models = [model if size == (6, 512) else make_model(*size, context=2048) for size in sizes]
    by_size = [labels * reference_row(m) / ours(m, 16) for m in models]

    plt.rcParams.update({"svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.7), sharey=True)
    for axis, x, y, name in (
        (axes[0], [str(k) for k in shots], by_shots, f"demonstrations ({labels} options)"),
        (axes[1], [str(n) for n in numbers], by_options, "options (16 demonstrations)"),
        (axes[2], [f"{a}x{b}" for a, b in sizes], by_size, f"model size ({labels} options, 16 demonstrations)"),
    ):
        axis.plot(x, y, marker="o", color="#1f4e79")
        axis.set_xlabel(name)
        axis.set_yscale("log")
        axis.axhline(30, color="#999999", linewidth=0.8, linestyle="--")
        axis.grid(alpha=0.3)
        emit(panel=name, x=x, ratio=[round(v, 1) for v in y])
    axes[0].set_ylabel("times faster than the reference")
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)


def main(
    examples: int = 32,
    reference_rows: int = 4,
    repeats: int = 3,
    plot_to: Path | None = None,
    side: str | None = None,
) -> None:
    """Prints the table of ratios, or draws the plots.

    Args:
        examples: Test examples of each task that we score (a quarter of them for channel).
        reference_rows: Rows of each task but the first that the reference procedure scores; of the first 16.
        repeats: Our measurements, of which the median counts.
        plot_to: Draw the plots to this SVG file instead.
        side: Measure only reference or ours in this process and print JSON lines; the table uses it.
    """
    _, real = open_collection()
    cases = list(CASES if real else STARTER_CASES)
    if plot_to is not None:
        plot(plot_to, repeats)
        return
    if side is not None:
        child(side, cases, examples, reference_rows, repeats)
        return
    words = ["--examples", str(examples), "--reference-rows", str(reference_rows), "--repeats", str(repeats)]
    reference, reference_memory = in_child(sys.argv[0], "--side", "reference", *words)
    ours, our_memory = in_child(sys.argv[0], "--side", "ours", *words)
    lines = []
    for (task, direction, overflow), theirs, mine in zip(cases, reference, ours, strict=True):
        ratio = theirs["seconds"] * mine["options"] / mine["seconds"]
        difference = max(abs(a - b) for a, b in zip(theirs["scores"], mine["scores"], strict=False))
        cut = f"{mine['cut_alone']:.0%} alone" if overflow == "left" else f"{mine['cut']} tokens"
        lines.append(
            [
                task,
                direction,
                f"{mine['options']:g}",
                f"{mine['tokens']:.0f}",
                overflow,
                cut,
                f"{ratio:.0f}",
                f"{difference:.0e}",
            ]
        )
    header = [
        "task",
        "direction",
        "options",
        "tokens a prompt",
        "overflow",
        "cut",
        "times faster",
        "largest difference",
    ]
    print(table(header, lines))
    rows = [r["seconds"] for r in reference]
    print(f"\nreference, slowest / fastest case, seconds a row: {max(rows) / min(rows):.2f}")
    memory = f"({our_memory:.0f} / {reference_memory:.0f} MiB)"
    print(f"peak memory, ours / reference: {our_memory / reference_memory:.2f} {memory}")


if __name__ == "__main__":
    tyro.cli(main)
