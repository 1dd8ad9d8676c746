import subprocess
import sys

import pytest

from bosal_server.engine.openvino_runtime import OpenVinoRefused, is_installed, load_openvino


def test_it_is_imported_without_its_telemetry() -> None:
    code = (
        "import sys; from bosal_server.engine.openvino_runtime import load_openvino\n"
        "openvino = load_openvino()\n"
        "from openvino.tools.ovc import convert_impl\n"
        "assert convert_impl.tm.__name__.endswith('telemetry_stub'), convert_impl.tm\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
    )
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_missing_package_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not is_installed()
    with pytest.raises(OpenVinoRefused, match="not installed"):
        load_openvino()
