"""What a model computes in: on which device, in which type of number."""

import torch

from bosal_decoding.errors import suggestion
from bosal_server.errors import ModelError
from bosal_server.model_files import first_line

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Below this size eager bf16 on a CPU costs more in conversions than it saves in bandwidth.
_MIN_BF16_PARAMETERS = 100_000_000
_FAST_BF16_CAPABILITIES = ("amx_bf16", "avx512_bf16", "bf16")


def check_device(name: str, device: str) -> None:
    """Refuse a device that torch cannot compute on here.

    Raises:
        ModelError: with torch's reason.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cause = first_line(error)
        raise ModelError(f"model '{name}': device '{device}' cannot be used: {cause}") from None


def choose_dtype(name: str, dtype: str, device: str, num_parameters: int) -> torch.dtype:
    """Return the type a model computes in; "auto" is bfloat16 where that is fast.

    Raises:
        ModelError: there is no such type, with the nearest known name.
    """
    if dtype != "auto":
        if dtype not in DTYPES:
            hint = suggestion(dtype, ("auto", *DTYPES))
            raise ModelError(f"model '{name}': no dtype is called '{dtype}', {hint}")
        return DTYPES[dtype]
    if torch.device(device).type != "cpu":
        return torch.bfloat16
    is_worth_it = num_parameters >= _MIN_BF16_PARAMETERS and has_fast_bf16()
    return torch.bfloat16 if is_worth_it else torch.float32


def has_fast_bf16() -> bool:
    """Say whether this CPU multiplies bfloat16 matrices in hardware."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is None:  # an older torch
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return any(capabilities().get(name) for name in _FAST_BF16_CAPABILITIES)
