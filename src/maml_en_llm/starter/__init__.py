"""The built-in default: small tasks, a small language model, and a quick start that runs the whole job on them."""

from pathlib import Path

from ..names import model_folder


def starter_model() -> Path:
    """The Hugging Face folder of the built-in language model; `make starter-model` makes it anew."""
    return Path(model_folder("starter"))
