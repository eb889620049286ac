"""The specification of every op in plain PyTorch; runs on any device."""
