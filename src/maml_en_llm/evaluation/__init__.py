"""How well a model predicts the next task: option scores, metrics and the MetaICL protocol."""
