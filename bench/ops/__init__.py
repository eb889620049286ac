"""One file per op: every backend and plain PyTorch on the same inputs."""
