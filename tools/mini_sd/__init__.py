"""Parts of `tools/train_mini_sd.py`: the design of the networks, the data, and the training loops."""
