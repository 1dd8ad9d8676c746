"""Settings of the kernels' tests."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "kernels",
    deadline=None,
    derandomize=True,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def _single_thread() -> None:
    torch.set_num_threads(1)
