"""A PostgreSQL of the tests' own, from the distribution's package."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


def programs() -> Path | None:
    """The folder of the newest installed PostgreSQL's programs."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max(versions, key=lambda file: int(file.parts[-3]), default=Path()).parent or None


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run a server on a free port and yield the URL of its first database."""
    # PostgreSQL refuses to be root.
    user = "postgres" if os.geteuid() == 0 else None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with TemporaryDirectory() as data:
        if user is not None:
            shutil.chown(data, user)
        initialise = [str(folder / "initdb"), "--pgdata", f"{data}/db", "--auth=trust", "--no-sync"]
        subprocess.run(
            [*initialise, "--username=bosal", "--encoding=UTF8", "--locale=C"],
            check=True,
            capture_output=True,
            user=user,
            cwd=data,
        )
        command = [str(folder / "postgres"), "-D", f"{data}/db", "-p", str(port), "-k", data]
        process = subprocess.Popen(
            [*command, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=user,
            cwd=data,
        )
        try:
            is_ready = [str(folder / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
            while subprocess.run(is_ready).returncode:
                assert process.poll() is None, "PostgreSQL did not start"
            yield f"postgresql://bosal@127.0.0.1:{port}/postgres"
        finally:
            process.terminate()
            process.wait(30)
