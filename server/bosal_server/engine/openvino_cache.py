"""Converted models on disk, found again by the content of what they were made from."""

import fcntl
import hashlib
import inspect
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from bosal_server.engine import openvino_convert, openvino_trace
from bosal_server.engine.openvino_convert import Conversion
from bosal_server.engine.openvino_runtime import load_openvino
from bosal_server.engine.openvino_trace import PagedLayer

_GRAPH, _WEIGHTS, _MANIFEST = "graph.xml", "graph.bin", "manifest.json"

_logger = logging.getLogger(__name__)


class _Unusable(Exception):
    """Raised when an entry is not what was once written."""


def default_folder(environment: Mapping[str, str]) -> Path:
    """Return where converted models are kept: bosal/openvino in the XDG cache directory."""
    base = environment.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "bosal" / "openvino"


class ConversionCache:
    """One folder per converted model, named by the model's digest and what else decided it.

    An entry appears by one rename, complete. Processes that want the same model at once wait for
    the first to convert it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def entry(self, *, digest: str, dtype: str) -> Path:
        """Return the folder of a model's conversion with the versions at hand."""
        decides = [
            digest,
            dtype,
            load_openvino().get_version(),
            torch.__version__,
            transformers.__version__,
            *map(inspect.getsource, (openvino_convert, openvino_trace)),
        ]
        key = hashlib.blake2b(json.dumps(decides).encode(), digest_size=8).hexdigest()
        return self._folder / f"{digest[:32]}-{key}"

    def fetch(
        self, *, digest: str, dtype: str, convert: Callable[[], Conversion]
    ) -> tuple[Conversion, str]:
        """Return the conversion and where it came from: the disk, or `convert` if it must.

        Without a disk to write to the conversion is used from memory.
        """
        entry = self.entry(digest=digest, dtype=dtype)
        if entry.exists():
            try:
                return _read(entry), "from the cache"
            except _Unusable as error:
                _logger.warning(
                    "the converted model in %s is unusable (%s); converting again", entry, error
                )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._folder / f"{digest[:32]}.lock"):
                return self._build(entry, convert)
        except OSError as error:
            _logger.warning("no converted models are kept in %s: %s", self._folder, error)
            return convert(), "not kept"

    def _build(self, entry: Path, convert: Callable[[], Conversion]) -> tuple[Conversion, str]:
        """Convert and keep the result, unless another process did so meanwhile."""
        if entry.exists():
            try:
                return _read(entry), "from the cache"
            except _Unusable:
                _remove(entry)
        conversion = convert()
        for stale in self._folder.glob(f"{entry.name[:33]}*"):
            # Another version's, or the remains of a process that was killed.
            _logger.info("removing the stale converted model %s", stale)
            _remove(stale)
        try:
            _write(entry, conversion)
            return _read(entry), "converted"
        except (OSError, RuntimeError, _Unusable) as error:
            # OpenVINO reports a full disk as a RuntimeError.
            _logger.warning("the converted model could not be kept in %s: %s", entry, error)
            _remove(entry)
            return conversion, "not kept"


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends."""
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _logger.info("another process is converting this model; waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _write(entry: Path, conversion: Conversion) -> None:
    building = Path(tempfile.mkdtemp(prefix=f"{entry.name}.", dir=entry.parent))
    try:
        load_openvino().save_model(conversion.graph, str(building / _GRAPH), compress_to_fp16=False)
        manifest = {
            "layers": [asdict(layer) for layer in conversion.layers],
            "sha256": {name: _digest(building / name) for name in (_GRAPH, _WEIGHTS)},
        }
        (building / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        building.rename(entry)
    except BaseException:
        _remove(building)
        raise


def _read(entry: Path) -> Conversion:
    try:
        manifest: dict[str, Any] = json.loads((entry / _MANIFEST).read_text())
        layers = tuple(PagedLayer(**layer) for layer in manifest["layers"])
        for name in (_GRAPH, _WEIGHTS):
            if _digest(entry / name) != manifest["sha256"][name]:
                raise _Unusable(f"{name} was changed or cut off")
        graph = load_openvino().Core().read_model(str(entry / _GRAPH))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _Unusable(str(error)) from None
    return Conversion(graph=graph, layers=layers)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
