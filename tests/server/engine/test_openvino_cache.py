"""Converted models on disk: found again, rebuilt when damaged, never in the way."""

import logging
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tests.live_server import environment

from bosal_server.engine.openvino_cache import ConversionCache, default_folder
from bosal_server.engine.openvino_compiled import compile_graph
from bosal_server.engine.openvino_convert import Conversion, convert
from bosal_server.engine.openvino_runner import OpenVinoRunner
from bosal_server.engine.openvino_runtime import OpenVinoRefused
from bosal_server.engine.step import Chunk, StepPlan
from bosal_server.model import LoadedModel

LOGGER = "bosal_server.engine.openvino_cache"
PLAN = StepPlan.pack([Chunk(list(range(3, 45)), 0, [1, 0], True)], 32)


class Converter:
    """Converts the tiny model and counts how often."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self.count = 0

    def __call__(self) -> Conversion:
        self.count += 1
        return convert(self._model.model)


@pytest.fixture
def converter(tiny_llama: LoadedModel) -> Converter:
    return Converter(tiny_llama)


@pytest.fixture(scope="module")
def expected(tiny_llama: LoadedModel) -> torch.Tensor:
    return logits_of(convert(tiny_llama.model))


@pytest.fixture(scope="module")
def kept(tiny_llama: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    fetch(folder, Converter(tiny_llama))
    return folder


def logits_of(conversion: Conversion) -> torch.Tensor:
    runner = OpenVinoRunner(compile_graph(conversion, dtype="float32", threads=1), num_blocks=2)
    return runner.forward(PLAN).clone()


def fetch(folder: Path, converter: Callable[[], Conversion], digest: str = "ab" * 16) -> str:
    _, source = ConversionCache(folder).fetch(digest=digest, dtype="float32", convert=converter)
    return source


def entry_of(folder: Path, digest: str = "ab" * 16) -> Path:
    return ConversionCache(folder).entry(digest=digest, dtype="float32")


def test_the_second_start_reads_what_the_first_converted(
    tmp_path: Path, converter: Converter, expected: torch.Tensor
) -> None:
    cache = ConversionCache(tmp_path / "not" / "there" / "yet")
    sources = []
    for _ in range(2):
        conversion, source = cache.fetch(digest="cd" * 16, dtype="float32", convert=converter)
        sources.append(source)
        torch.testing.assert_close(logits_of(conversion), expected)
    assert sources == ["converted", "from the cache"]
    assert converter.count == 1


def test_other_weights_or_types_have_entries_of_their_own(tmp_path: Path) -> None:
    cache = ConversionCache(tmp_path)
    entries = {
        cache.entry(digest=digest, dtype=dtype)
        for digest in ("ab" * 16, "cd" * 16)
        for dtype in ("float32", "bfloat16")
    }
    assert len(entries) == 4


def truncate_weights(entry: Path) -> None:
    weights = entry / "graph.bin"
    weights.write_bytes(weights.read_bytes()[:-1000])


def flip_a_bit(entry: Path) -> None:
    weights = bytearray((entry / "graph.bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    (entry / "graph.bin").write_bytes(weights)


def cut_the_graph(entry: Path) -> None:
    (entry / "graph.xml").write_text("<net")


def empty_the_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_text("")


def write_another_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_text('{"layers": [{"heads": 3}], "sha256": {}}')


def remove_the_graph(entry: Path) -> None:
    (entry / "graph.xml").unlink()


def put_a_file_in_its_place(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("")


@pytest.mark.parametrize(
    "damage",
    [
        truncate_weights,
        flip_a_bit,
        cut_the_graph,
        empty_the_manifest,
        write_another_manifest,
        remove_the_graph,
        put_a_file_in_its_place,
    ],
)
def test_a_damaged_entry_is_rebuilt_once_with_a_message(
    damage: Callable[[Path], None],
    tmp_path: Path,
    kept: Path,
    converter: Converter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    damage(entry_of(tmp_path))
    with caplog.at_level(logging.WARNING, LOGGER):
        assert fetch(tmp_path, converter) == "converted"
        assert fetch(tmp_path, converter) == "from the cache"
    assert [str(entry_of(tmp_path)) in record.message for record in caplog.records] == [True]
    assert converter.count == 1


def test_entries_of_other_versions_and_remains_are_removed(
    tmp_path: Path, converter: Converter
) -> None:
    entry = entry_of(tmp_path)
    older = entry.with_name(entry.name[:-4] + "0000")
    remains = entry.with_name(f"{entry.name}.killed")
    other_model = tmp_path / ("cd" * 16 + "-0123456789abcdef")
    for folder in (older, remains, other_model):
        folder.mkdir(parents=True)
    fetch(tmp_path, converter)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(
        [entry.name, other_model.name]
    )


def test_starts_at_once_convert_once(tmp_path: Path, converter: Converter) -> None:
    sources: list[str] = []
    threads = [
        threading.Thread(target=lambda: sources.append(fetch(tmp_path, converter)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sources) == ["converted", "from the cache", "from the cache"]
    assert converter.count == 1


def test_two_processes_that_start_at_once_convert_once(
    tmp_path: Path, tiny_llama_folder: Path
) -> None:
    """Both have loaded the model before either begins."""
    program = (
        "import sys; from pathlib import Path\n"
        "from bosal_server.engine import runner_choice\n"
        "from bosal_server.engine.step import Chunk, StepPlan\n"
        "from bosal_server.model import load_model\n"
        "runner_choice.load_openvino()\n"
        "model = load_model('tiny', sys.argv[1], dtype='float32')\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "choice = runner_choice.choose_runner(model, preference='openvino', cache_tokens=100,"
        " dtype='float32', threads=1, conversions=Path(sys.argv[2]))\n"
        "plan = StepPlan.pack([Chunk(list(range(3, 45)), 0, [1, 0], 1)], 32)\n"
        "print(choice.reason.split(';')[0], choice.runner.forward(plan)[0, :8].tolist())\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tiny_llama_folder), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(OMP_NUM_THREADS="1"),
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = sorted(process.communicate()[0] for process in processes)
    sources = [answer.split(" [")[0] for answer in answers]
    assert sources == ["converted", "from the cache"]
    assert len({answer.split(" [")[1] for answer in answers}) == 1
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_the_cache_only(
    tmp_path: Path,
    converter: Converter,
    expected: torch.Tensor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, LOGGER), largest_file(100_000):
        conversion, source = ConversionCache(tmp_path).fetch(
            digest="ab" * 16, dtype="float32", convert=converter
        )
    assert source == "not kept"
    torch.testing.assert_close(logits_of(conversion), expected)
    assert "could not be kept" in caplog.text
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_folder_that_cannot_be_made_costs_the_cache_only(
    tmp_path: Path, converter: Converter, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, LOGGER):
        assert fetch(tmp_path / "file" / "cache", converter) == "not kept"
    assert "no converted models are kept" in caplog.text


def test_a_refusal_is_passed_on_and_leaves_nothing(tmp_path: Path) -> None:
    def refuse() -> Conversion:
        raise OpenVinoRefused("of a reason")

    with pytest.raises(OpenVinoRefused, match="of a reason"):
        fetch(tmp_path, refuse)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_the_default_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder({"XDG_CACHE_HOME": "/var/c"}) == Path("/var/c/bosal/openvino")
    assert default_folder({}) == tmp_path / ".cache/bosal/openvino"
    # The specification has relative paths ignored.
    assert default_folder({"XDG_CACHE_HOME": "c"}) == tmp_path / ".cache/bosal/openvino"
