"""What made the models, evidence and stand-ins of this repository; run from its root with `python -m tools.<name>`."""
