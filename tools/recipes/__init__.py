"""Experiments behind `KSAEConfig(recipe=...)`: `python -m tools.recipes --help`."""
