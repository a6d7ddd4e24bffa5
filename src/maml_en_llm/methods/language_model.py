"""Language modelling on training prompts, to make a base model: MetaICL's update on the loss of every token.

The configuration's `chosen_predicted` is `text` for this method; with `predicted=answers` the loss counts the answers
of all examples in a prompt, demonstrations included.
"""

from __future__ import annotations

from .metaicl import MetaICL


class LanguageModel(MetaICL):
    pass
