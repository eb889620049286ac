"""What only a real GPU can tell: parity, CUDA graphs, the sanitizer's verdict, and time against a model of it."""

from revelio_fast.gpu_check.check import check_gpu

__all__ = ["check_gpu"]
