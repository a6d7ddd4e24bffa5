"""Tables from results files; nothing here computes a score."""
