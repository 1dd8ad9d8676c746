"""OpenVINO GenAI beside the engine: the same graph, in a process of another Python."""

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from benchmarks import models
from bosal_server.engine.openvino_convert import convert
from bosal_server.engine.openvino_runtime import load_openvino

_PEER = Path(__file__).with_name("genai_peer.py")


class GenAi:
    """A pipeline over a benchmark model; use it in `with`."""

    def __init__(
        self, python: Path, name: str, model: Any, *, threads: int, precision: str
    ) -> None:
        self._folder = TemporaryDirectory()
        export(name, model, Path(self._folder.name))
        self._process = subprocess.Popen(
            [str(python), str(_PEER), self._folder.name, str(threads), precision],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = str(self._read()["version"])

    def generate(self, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
        """Return `seconds` and `tokens` of decoding all prompts at once."""
        return self._ask("generate", prompts, new_tokens)

    def decode_step(self, prompts: list[list[int]], new_tokens: int) -> float:
        """Return the median seconds of a step that decodes one token of every prompt."""
        return self._ask("decode_step", prompts, new_tokens)["seconds"]

    def _ask(self, run: str, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
        assert self._process.stdin is not None
        question = {"run": run, "prompts": prompts, "new_tokens": new_tokens}
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"OpenVINO GenAI ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()
        self._folder.cleanup()


def export(name: str, model: Any, folder: Path) -> None:
    """Write a model as the pipeline reads it: our graph, with logits of every token."""
    model.save_pretrained(folder, safe_serialization=True)
    models.tokenizer().save_pretrained(folder)
    graph = convert(model).graph
    rows = graph.input("logits_rows").get_node()
    (target,) = rows.output(0).get_target_inputs()
    gather = target.get_node()
    while gather.get_type_name() != "Gather":
        (target,) = gather.output(0).get_target_inputs()
        gather = target.get_node()
    # Behind the flattened rows lie the hidden states [batch, new, hidden].
    hidden = gather.input_value(0).get_node().input_value(0)
    for head in list(gather.output(0).get_target_inputs()):
        head.replace_source_output(hidden)
    graph.remove_parameter(rows)
    graph.validate_nodes_and_infer_types()
    load_openvino().save_model(graph, str(folder / "openvino_model.xml"), compress_to_fp16=False)
