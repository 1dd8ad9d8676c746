"""OpenVINO GenAI beside the engine: the same graph, in a process of another Python."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import models
from benchmarks.peer_process import PeerProcess
from bosal_server.engine.openvino_convert import convert
from bosal_server.engine.openvino_runtime import load_openvino

_PEER = Path(__file__).with_name("genai_peer.py")


class GenAi(PeerProcess):
    """A pipeline over a benchmark model; use it in `with`."""

    def __init__(
        self, python: Path, name: str, model: Any, *, threads: int, precision: str
    ) -> None:
        folder = TemporaryDirectory()
        export(name, model, Path(folder.name))
        super().__init__([python, _PEER, folder.name, threads, precision], folder)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
        """Return `seconds` and `tokens` of decoding all prompts at once."""
        return self.ask(run="generate", prompts=prompts, new_tokens=new_tokens)

    def decode_step(self, prompts: list[list[int]], new_tokens: int) -> float:
        """Return the median seconds of a step that decodes one token of every prompt."""
        answer = self.ask(run="decode_step", prompts=prompts, new_tokens=new_tokens)
        return float(answer["seconds"])


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
