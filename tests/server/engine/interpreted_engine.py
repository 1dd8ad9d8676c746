"""Run by its test under Triton's interpreter: an engine on a device that is simulated.

It draws what the CPU's engine draws, and of each step waits for the device where tokens come down,
and nowhere else.
"""

from tests.kernels import interpreter  # noqa: F401, I001

from dataclasses import replace

import pytest
from tests.simulated_device import put, simulated_device

from bosal_server.model import LoadedModel

from .device_requests import engine, submit


# Of differences of -inf in lanes that are masked afterwards: the interpreter is numpy.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_step_waits_for_its_device_where_tokens_come_down_and_nowhere_else(
    tiny_llama: LoadedModel,
) -> None:
    on_cpu = engine(tiny_llama)
    wanted = submit(on_cpu, tiny_llama)
    on_cpu.run()
    with simulated_device() as device:
        for tensor in (*tiny_llama.model.parameters(), *tiny_llama.model.buffers()):
            put(tensor)
        bench = engine(replace(tiny_llama, device="cuda:0"))
        assert bench.stepper._pipelines["tiny"].backend == "triton"
        found = submit(bench, tiny_llama)
        waits = []
        while bench.stepper.has_work:
            device.take_waits()
            bench.step()
            waits.append(device.take_waits())
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.tokens() == theirs.tokens()
    assert {tuple(step) for step in waits} == {("transfer.py:delivered:copy",)}, waits
