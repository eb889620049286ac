"""Other libraries' training step and encoder beside ours: `python -m bench peers` (see run.py)."""
