"""The built-in default: small tasks and a quick start that runs the whole job on them."""
