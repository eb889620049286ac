"""The ops by our C++ kernels (`revelio_fast._C`)."""
