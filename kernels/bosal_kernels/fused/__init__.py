"""Triton kernels, each in the file of its name; import them where there is a device to run them."""
