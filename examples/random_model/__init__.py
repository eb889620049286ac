"""Folders in diffusers format with random weights: configurations and tokenizers of `examples.make_random_model`."""
