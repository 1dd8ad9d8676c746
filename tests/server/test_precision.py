"""Which type of number a model computes in."""

from functools import partial

import pytest
import torch

from bosal_server import precision
from bosal_server.errors import ModelError


@pytest.mark.parametrize("is_fast", [True, False])
def test_large_models_run_in_bfloat16_where_that_is_fast(
    is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_fast_bf16", lambda: is_fast)
    choose = partial(precision.choose_dtype, "tiny")
    assert choose("auto", "cpu", 99_000_000) == torch.float32
    expected = torch.bfloat16 if is_fast else torch.float32
    assert choose("auto", "cpu", 101_000_000) == expected
    assert choose("auto", "cuda", 1_000) == torch.bfloat16
    assert choose("float16", "cpu", 1_000) == torch.float16


def test_an_unknown_type_or_device_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="no dtype is called 'bfloat61', did you mean"):
        precision.choose_dtype("tiny", "bfloat61", "cpu", 1)
    with pytest.raises(ModelError, match="model 'tiny': device 'cudda' cannot be used"):
        precision.check_device("tiny", "cudda")
