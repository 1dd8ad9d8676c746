"""The simulated device refuses and notices what a real one would."""

import pytest
import torch
from tests.simulated_device import MixedDevices, SimulatedDevice, is_there

from bosal_kernels import delivered, on_device, sent


def test_tensors_say_where_they_are() -> None:
    with SimulatedDevice() as device:
        here, there = torch.zeros(3), torch.zeros(3, device="cuda")
        assert (here.device.type, there.device.type) == ("cpu", "cuda")
        assert (here.is_cuda, there.is_cuda, there[1:].is_cuda) == (False, True, True)
        assert (there + 1).is_cuda
        assert torch.cat([there, there]).device.type == "cuda"
        assert not is_there(there.cpu())
    assert device.take_waits() == ["test_simulated_device.py:test_tensors_say_where_they_are:copy"]


def test_host_and_device_do_not_meet() -> None:
    with SimulatedDevice():
        there = torch.zeros(3, device="cuda")
        with pytest.raises(MixedDevices):
            there + torch.ones(3)
        with pytest.raises(MixedDevices):
            there.index_select(0, torch.tensor([1]))
        # One number is no tensor to meet.
        assert (there + torch.tensor(2.0)).is_cuda


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        (lambda x: x.sum().item(), "item"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: bool((x > 0).any()), "__bool__"),
        (lambda x: int(x.max()), "__int__"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 1], "mask"),
        (lambda x: x[[0, 1]], "index"),
        (lambda x: x[torch.tensor([0, 1])], "index"),
        (lambda x: x.__setitem__(slice(0, 2), torch.ones(2)), "value"),
        (lambda x: x.cpu(), "copy"),
        (lambda x: torch.tensor([1.0], device=x.device), "copy"),
        (lambda x: torch.ones(3).to(x.device), "copy"),
        (lambda x: torch.ones(3).to(x.device, non_blocking=True), "copy"),
        (lambda x: torch.arange(3).to(x.device).repeat_interleave(x.long()), "copy"),
    ],
)
def test_waits_are_noticed(what: object, kind: str) -> None:
    assert callable(what)
    with SimulatedDevice() as device:
        x = torch.arange(3.0, device="cuda")
        assert device.take_waits() == []
        what(x)
        assert device.take_waits()[0].endswith(f":{kind}")


def test_what_is_sent_is_not_waited_for_and_what_is_delivered_once() -> None:
    with SimulatedDevice() as device:
        cuda = torch.device("cuda")
        first, second = sent([[1, 2, 3], [4]], cuda)
        third = on_device([0.5], cuda, torch.float32)
        x = torch.zeros(4, device=cuda)
        x[first] = 1.0
        x[x > 0] = 2.0
        assert device.take_waits() == []
        given = [first, second, third, x > 0, torch.empty(2, 0, device=cuda)]
        found = delivered(given)
        assert device.take_waits() == ["transfer.py:delivered:copy"]
        assert not any(is_there(tensor) for tensor in found)
    assert [tensor.tolist() for tensor in found] == [
        [1, 2, 3], [4], [0.5], [False, True, True, True], [[], []],
    ]  # fmt: skip
