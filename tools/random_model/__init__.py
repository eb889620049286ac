"""Folders in diffusers format with random weights: configurations and tokenizers of `tools.make_random_model`."""
