"""Write the TypeScript stubs of the contract: `python clients/typescript/stubs.py [FOLDER]`."""

import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

HERE = Path(__file__).parent
PROTO = HERE.parents[1] / "proto"
PLUGIN = HERE / "node_modules/.bin/protoc-gen-es"
CHECKED_IN = HERE / "src/gen"


def write_stubs(folder: Path) -> None:
    """Write a module for each file of the contract and for what of others goes over the wire."""
    folder.mkdir(parents=True, exist_ok=True)
    google = Path(error_details_pb2.__file__).parents[2]
    own = sorted(str(file.relative_to(PROTO)) for file in PROTO.glob("bosal/v1/*.proto"))
    details = ["google/rpc/status.proto", "google/rpc/error_details.proto"]
    _generate(folder, "-I", str(PROTO), "-I", str(google), *own, *details)
    # Its package brings the descriptor alone.
    health = descriptor_pb2.FileDescriptorSet()
    health_pb2.DESCRIPTOR.CopyToProto(health.file.add())
    with tempfile.NamedTemporaryFile() as file:
        file.write(health.SerializeToString())
        file.flush()
        _generate(folder, f"--descriptor_set_in={file.name}", health_pb2.DESCRIPTOR.name)


def _generate(folder: Path, *arguments: str) -> None:
    options = ["--es_opt=target=ts", "--es_opt=import_extension=js"]
    plugin = [f"--plugin=protoc-gen-es={PLUGIN}", f"--es_out={folder}", *options]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *plugin, *arguments], check=True)


if __name__ == "__main__":
    write_stubs(Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKED_IN)
