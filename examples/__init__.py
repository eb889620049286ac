"""Examples: scripts a user can run from the repository's root, each with `python -m examples.<name>`."""
