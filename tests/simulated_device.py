"""A CUDA device that is not there: its tensors lie on the CPU and say that they lie on `cuda:0`.

What computes is real, so whole engines run. Tensors of the host and of the device that meet in one
operation are refused, as CUDA refuses them, and every wait for the device is written down: numbers
that are read back, shapes that depend on numbers, copies that are not pinned.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

ROOT = Path(__file__).parents[1]
DEVICE = torch.device("cuda", 0)
# Of a device's tensors: their results are numbers on the host, or as many as the numbers say.
_READING = frozenset(
    {
        "item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__",
        "__contains__", "__repr__", "__format__", "nonzero", "argwhere", "masked_select", "unique",
        "unique_consecutive", "bincount", "equal", "allclose", "is_nonzero",
    }
)  # fmt: skip
_GETTERS = {
    name: getattr(torch.Tensor, name).__get__ for name in ("device", "is_cuda", "is_cpu", "data")
}


class MixedDevices(RuntimeError):
    """Raised when tensors of the host and of the device meet."""


class SimulatedDevice(TorchFunctionMode):
    """Within it `cuda` is a device; `waits` names the functions that waited for it, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._is_paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let tensors be those of the host that they are, for what stands for the device."""
        before, self._is_paused = self._is_paused, True
        try:
            yield
        finally:
            self._is_paused = before

    def take_waits(self) -> list[str]:
        waits, self.waits = self.waits, []
        return waits

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if self._is_paused:
            return func(*args, **given)
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._get(func, args[0])
        if name == "__set__":
            if isinstance(args[1], Tensor) and is_there(args[1]):
                put(args[0])
            return func(*args, **given)
        if name in ("to", "cpu", "cuda", "copy_", "pin_memory"):
            return self._copy(name, func, args, given)
        if name in ("__getitem__", "__setitem__"):
            self._index(name, *args)
            found = func(*args, **given)
            return put(found) if is_there(args[0]) and name == "__getitem__" else found
        if name == "get_device":
            return 0 if is_there(args[0]) else -1
        return self._compute(name, func, args, given)

    def _get(self, func: Any, tensor: Tensor) -> Any:
        if func == _GETTERS["device"]:
            return DEVICE if is_there(tensor) else torch.device("cpu")
        if func in (_GETTERS["is_cuda"], _GETTERS["is_cpu"]):
            return is_there(tensor) == (func == _GETTERS["is_cuda"])
        found = func(tensor)
        return put(found) if is_there(tensor) else found

    def _copy(self, name: str, func: Any, args: Sequence[Any], given: dict[str, Any]) -> Any:
        if name == "pin_memory":
            found = args[0].clone()
            found.is_pinned_here = True
            return found
        if name == "copy_":
            source, target = args[1], is_there(args[0])
            if isinstance(source, Tensor) and source.dim():
                self._moved(source, target, given)
            return func(*args, **given)
        target = is_there(args[0])
        rest = []
        for value in (*args[1:], given.pop("device", None)):
            if isinstance(value, str | torch.device):
                target = torch.device(value).type == "cuda"
            elif value is not None:
                rest.append(value)
        if name != "to":
            target = name == "cuda"
        source = args[0]
        self._moved(source, target, given)
        found = source.to(*rest, **given) if rest or given else source
        if is_there(source) != target and found is source:
            found = source.clone()
        return put(found) if target else found

    def _moved(self, source: Tensor, target: bool, given: dict[str, Any]) -> None:
        if is_there(source) == target:
            return
        is_free = getattr(source, "is_pinned_here", False) and given.get("non_blocking", False)
        if not (target and is_free):
            self._wait("copy")

    def _index(self, name: str, tensor: Tensor, index: Any, *value: Any) -> None:
        if not is_there(tensor):
            return
        parts = index if isinstance(index, tuple) else (index,)
        for part in parts:
            bounds = (part.start, part.stop, part.step) if isinstance(part, slice) else ()
            is_number = isinstance(part, Tensor) and part.dim() == 0 and part.dtype != torch.bool
            if any(isinstance(bound, Tensor) for bound in bounds) or is_number:
                self._wait("bound")
            elif isinstance(part, Tensor) and part.dtype == torch.bool:
                # One number is filled in where the mask says so.
                if not (value and not (isinstance(value[0], Tensor) and value[0].numel() > 1)):
                    self._wait("mask")
            elif isinstance(part, list) or (isinstance(part, Tensor) and not is_there(part)):
                self._wait("index")
        if value and isinstance(value[0], Tensor) and value[0].dim() and not is_there(value[0]):
            self._wait("value")

    def _compute(self, name: str, func: Any, args: Sequence[Any], given: dict[str, Any]) -> Any:
        tensors = list(_tensors([args, list(given.values())]))
        here = [tensor for tensor in tensors if is_there(tensor)]
        if here and any(tensor.dim() and not is_there(tensor) for tensor in tensors):
            raise MixedDevices(f"{name} of tensors on the host and on the device")
        device = given.get("device")
        is_made_there = device is not None and torch.device(device).type == "cuda"
        if is_made_there:
            del given["device"]
            if name in ("tensor", "as_tensor", "asarray"):
                self._wait("copy")
        if name == "new_tensor" and here:
            self._wait("copy")
        if here and (name in _READING or (name == "where" and len(args) + len(given) == 1)):
            self._wait(name)
        repeats = args[1] if len(args) > 1 else given.get("repeats")
        is_counted = isinstance(repeats, Tensor) and is_there(repeats)
        if name == "repeat_interleave" and is_counted and "output_size" not in given:
            self._wait(name)
        is_pinned = given.pop("pin_memory", False)
        found = func(*args, **given)
        if is_pinned:
            found.is_pinned_here = True
        return put(found) if is_made_there or (here and device is None) else found

    def _wait(self, what: str) -> None:
        frame = sys._getframe(2)
        while frame.f_back is not None:
            path = Path(frame.f_code.co_filename)
            if path != Path(__file__) and path.is_relative_to(ROOT) and ".venv" not in path.parts:
                place = path.relative_to(ROOT)
                break
            frame = frame.f_back
        else:
            place = Path("?")
        self.waits.append(f"{place.name}:{frame.f_code.co_name}:{what}")


def is_there(tensor: Tensor) -> bool:
    """Whether a tensor lies on the device."""
    return bool(getattr(tensor, "is_on_device", False))


def put(found: Any) -> Any:
    """Say of tensors that they lie on the device."""
    for tensor in _tensors([found]):
        tensor.is_on_device = True  # type: ignore[attr-defined]
    return found


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


@contextmanager
def simulated_device() -> Iterator[SimulatedDevice]:
    """Simulate a device; kernels run in Triton's interpreter, on the host."""
    from triton.runtime import interpreter

    device = SimulatedDevice()
    launch: Callable[..., Any] = interpreter.GridExecutor.__call__

    def on_host(*args: Any, **kwargs: Any) -> Any:
        for tensor in _tensors([args, list(kwargs.values())]):
            if not is_there(tensor):
                raise MixedDevices("a kernel is launched with a tensor on the host")
        with device.paused():
            return launch(*args, **kwargs)

    with (
        mock.patch.object(interpreter.GridExecutor, "__call__", on_host),
        mock.patch.object(torch.cuda, "device_of", return_value=nullcontext()),
        device,
    ):
        yield device
