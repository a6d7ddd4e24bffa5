"""The one loop that every method runs in."""
