"""MetaICT (in-context tuning, Chen et al., ACL 2022): MetaICL's update on prompts with an instruction at their head.

The configuration's `instructed` is true for this method, so each prompt begins with a sentence that says what to do.
"""

from __future__ import annotations

from .metaicl import MetaICL


class MetaICT(MetaICL):
    pass
