"""The page that lists the starter tasks: `python -m maml_en_llm.starter.page > docs/starter-tasks.md`."""

from __future__ import annotations

from ..tasks.seeds import random_generator
from .tasks import HELD_OUT_DOMAINS, TASKS, TEST_EXAMPLES, starter_settings

KINDS = {
    "classification": "Classification",
    "nli": "Natural language inference",
    "paraphrase": "Paraphrase",
    "multiple_choice_qa": "Multiple-choice questions",
    "free_form": "Free form",
}


def starter_page() -> str:
    """Every task with domain, instruction and an example, and how many tasks the settings have, as Markdown."""
    lines = [
        "# Starter tasks",
        "",
        "Made by `python -m maml_en_llm.starter.page > docs/starter-tasks.md`; do not edit by hand.",
        "",
        f"{len(TASKS)} small English tasks that come with the package, written by the project (Apache-2.0): words and",
        "facts in `words.yaml` and `facts.yaml`, tasks in `tasks.yaml` and in the modules beside it, all under",
        "`src/maml_en_llm/starter/`. Inputs are short and in lower case. They are made by rule, so they show how a",
        "method works, not how well a model knows English.",
        "",
        f"A task has {TEST_EXAMPLES} test examples and as many training examples as its table says. Labels are equally",
        "frequent. No input stands in both train and test. `write_starter_collection(folder)` in",
        "`maml_en_llm.starter.tasks` writes the same files on every machine.",
        "",
        "## Settings",
        "",
        "The seven settings of the paper in small, `starter`, which the quick start uses, and `starter-validation`, a",
        "part of its training tasks, on which its hyper-parameters were chosen. No setting trains on",
        f"tasks about {', '.join(HELD_OUT_DOMAINS[:-1])} or {HELD_OUT_DOMAINS[-1]}.",
        "",
        "| setting | training tasks | target tasks | of them from unseen domains |",
        "|---|---|---|---|",
        *(
            f"| `{name}` | {len(lists['train'])} | {len(lists['test'])} | {len(lists['unseen_domain_test'])} |"
            for name, lists in starter_settings().items()
        ),
    ]
    for kind, title in KINDS.items():
        tasks = [task for task in TASKS if task.kind == kind]
        lines += ["", f"## {title}: {len(tasks)} tasks", ""]
        lines += ["| task | domain | train | instruction | example | answer |", "|---|---|---|---|---|---|"]
        for task in tasks:
            example = task.draw(random_generator("page", task.name))
            text = example.input.replace("|", "\\|")
            answer = " / ".join(f"**{o}**" if o == example.output else o for o in example.options or (example.output,))
            cells = (f"`{task.name}`", task.domain, str(task.train), task.instruction, text, answer)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(starter_page(), end="")
