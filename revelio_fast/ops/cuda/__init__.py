"""The ops by the CUDA C++ kernels of csrc/cuda: irregular, per-latent work."""
