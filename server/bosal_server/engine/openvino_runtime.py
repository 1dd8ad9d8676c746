"""OpenVINO itself: imported when first needed and without its telemetry; what this CPU can do."""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bosal_server.errors import ModelError

# Tokens in a block of its paged attention on a CPU.
BLOCK_SIZE = 32

_TELEMETRY = "openvino_telemetry"


class OpenVinoRefused(ModelError):
    """Raised when a model cannot be run on OpenVINO here; another runner may serve it."""

    reason = "OPENVINO_REFUSED"

    def __init__(self, cause: str) -> None:
        super().__init__(f"OpenVINO cannot run this model: {cause}")
        self.cause = cause


def is_installed() -> bool:
    return find_spec("openvino") is not None


def load_openvino() -> Any:
    """Import OpenVINO.

    Its conversion tools report each import to a collector unless the user opted out; without the
    package that does so they use a stub.

    Raises:
        OpenVinoRefused: it is not installed, or its libraries do not load.
    """
    if sys.modules.get("openvino") is not None:
        return sys.modules["openvino"]
    if not is_installed():
        raise OpenVinoRefused("the package openvino is not installed")
    telemetry = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        openvino = import_module("openvino")
        # Both import the telemetry package on their own.
        import_module("openvino.tools.ovc.convert_impl")
        import_module("openvino.frontend.pytorch.ts_decoder")
    except (ImportError, OSError) as error:
        raise OpenVinoRefused(f"the package openvino does not load: {error}") from None
    finally:
        if telemetry is None:
            del sys.modules[_TELEMETRY]
        else:
            sys.modules[_TELEMETRY] = telemetry
    return openvino


def has_bf16() -> bool:
    """Say whether OpenVINO computes bfloat16 natively on this CPU."""
    capabilities = load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities
