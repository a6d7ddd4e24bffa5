"""What to learn from."""
