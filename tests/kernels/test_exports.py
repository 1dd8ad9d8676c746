"""The public names of the kernels."""

import subprocess
import sys

import bosal_kernels


def test_the_public_names_are_these() -> None:
    assert bosal_kernels.__all__ == [
        "ACTIVE",
        "DELTA",
        "MAX_ALLOWED",
        "MAX_RULES",
        "MAX_STAGES",
        "MAX_STREAMS",
        "YIELDED_BANS",
        "YIELDED_MIN_TOKENS",
        "YIELDED_PLAUSIBILITY",
        "YIELDED_REPEATS",
        "CombineParams",
        "CombineState",
        "Combined",
        "Control",
        "HostScopes",
        "InvalidCombineParams",
        "InvalidSlotParams",
        "InvalidTouchedTokens",
        "KernelError",
        "LegalTokens",
        "Logprobs",
        "Region",
        "RowShift",
        "Scope",
        "ScopedValue",
        "Selection",
        "SlotParams",
        "SlotState",
        "Space",
        "Stage",
        "TokenFlag",
        "TopTokens",
        "TouchedTokens",
        "certainty",
        "choice_key",
        "combine",
        "control",
        "delivered",
        "gumbel",
        "merged",
        "on_device",
        "on_host",
        "packed",
        "row_shift",
        "score",
        "select",
        "sent",
        "temperature_of",
    ]
    for name in bosal_kernels.__all__:
        assert hasattr(bosal_kernels, name)


def test_importing_them_needs_torch_and_numpy_alone() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import bosal_kernels;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "assert new <= {'bosal_kernels', 'numpy', *sys.stdlib_module_names}, new"
    )
    path = [entry for entry in sys.path if entry]
    environment = {"PYTHONPATH": ":".join(path), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
