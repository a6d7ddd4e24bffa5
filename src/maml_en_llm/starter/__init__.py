"""The built-in default: small tasks, a small language model, and a quick start that runs the whole job on them."""

from pathlib import Path


def starter_model() -> Path:
    """The Hugging Face folder of the built-in language model; `make starter-model` makes it anew."""
    return Path(__file__).parent / "model"
