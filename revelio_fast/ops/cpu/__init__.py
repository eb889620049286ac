"""The ops by our C++ kernels (`revelio_fast._C`): each file hands the addresses of checked tensors to csrc/cpu."""
