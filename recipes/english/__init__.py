"""How a base model that reads English is made from raw text (docs/english.md)."""
