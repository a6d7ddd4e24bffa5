"""Meta-train causal language models so that they learn a new task from the examples in their prompt."""

from importlib import import_module
from importlib.metadata import version
from typing import Any

# Public names and where they live; imported at first use, so that the command line starts fast.
_HOMES = {
    "SGD": "bilevel",
    "AdamW": "bilevel",
    "MetaGradient": "bilevel",
    "Moments": "bilevel",
    "meta_gradient": "bilevel",
    "Collection": "tasks.collection",
    "Example": "tasks.collection",
    "Setting": "tasks.collection",
    "load_collection": "tasks.collection",
    "EncodedPrompt": "prompts.layout",
    "PromptFormat": "prompts.layout",
    "AdaptConfig": "config",
    "EvaluateConfig": "config",
    "MAMLenLLM": "methods.maml_en_llm",
    "MetaICL": "methods.metaicl",
    "method_type": "methods",
    "train": "training.loop",
    "evaluate": "evaluation.protocol",
    "adapt": "evaluation.adaptation",
    "reproduce": "experiments.run",
    "InContextClassifier": "classifier",
    "predict": "evaluation.prediction",
    "report": "reporting.report",
    "quickstart": "starter.quickstart",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("maml-en-llm")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
