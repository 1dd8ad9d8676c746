import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bosal.v1 import generation_pb2, model_pb2, recipe_pb2

PROTO = Path(__file__).parents[2] / "proto"
SOURCES = sorted(PROTO.glob("bosal/v1/*.proto"))


def test_checked_in_stubs_are_what_the_generator_makes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTO)]
    command += [f"--{kind}={tmp_path}" for kind in ("python_out", "grpc_python_out")]
    command += [f"--{kind}=quiet:{tmp_path}" for kind in ("mypy_out", "mypy_grpc_out")]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run([*command, *map(str, SOURCES)], check=True, env={**os.environ, "PATH": path})
    generated = {p.relative_to(tmp_path): p.read_text() for p in tmp_path.rglob("*_pb2*")}
    checked_in = {p.relative_to(PROTO): p.read_text() for p in PROTO.glob("bosal/v1/*_pb2*.py*")}
    assert set(generated) == set(checked_in)
    stale = [str(name) for name, text in generated.items() if checked_in[name] != text]
    assert not stale, "run `make stubs`"


@pytest.mark.parametrize("module", [generation_pb2, model_pb2, recipe_pb2])
def test_every_rpc_has_a_comment_that_starts_with_its_name(module: ModuleType) -> None:
    text = (PROTO / module.DESCRIPTOR.name).read_text()
    rpcs = re.findall(r"^ *rpc (\w+)\(", text, flags=re.MULTILINE)
    assert rpcs
    undocumented = [name for name in rpcs if not re.search(rf"// {name} .*\n *rpc {name}\(", text)]
    assert not undocumented
