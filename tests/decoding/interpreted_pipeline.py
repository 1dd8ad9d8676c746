"""Run by its test under Triton's interpreter: a pipeline over the kernels beside the torch path."""

from tests.kernels import interpreter  # noqa: F401, I001

from tests.decoding.fused_crowds import compare_crowds
from tests.decoding.fused_pipeline import compare

compare("cpu")
compare_crowds("cpu", 3)
