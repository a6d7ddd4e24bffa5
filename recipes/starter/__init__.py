"""The recipe of the starter language model (docs/starter-model.md)."""
