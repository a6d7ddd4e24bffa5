"""Multi-task zero-shot: MetaICL's update on prompts without demonstrations.

The configuration's `shown` is 0 for this method, so its prompts hold the example alone, at training as at test.
"""

from __future__ import annotations

from .metaicl import MetaICL


class MultitaskZeroShot(MetaICL):
    pass
