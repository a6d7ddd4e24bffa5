"""How a model scores the options of examples."""
