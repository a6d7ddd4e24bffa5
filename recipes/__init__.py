"""How models that come with the package were made: not a part of the package, and imported by nothing in it."""
