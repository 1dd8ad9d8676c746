"""llama.cpp's server as a peer: run by a Python that has it, answers one JSON line with another.

    python llama_peer.py FOLDER THREADS SEQUENCES < questions

FOLDER holds what `benchmarks.llama` exports. It imports nothing of this project. Its Python has
xllamacpp, which carries llama.cpp's server in the process, and gguf.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import gguf
import numpy as np
import xllamacpp

CONTEXT_TOKENS = 256
MAX_BATCH_TOKENS = 512
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(folder: Path) -> Path:
    """Write the folder's Qwen3 weights in llama.cpp's format, in float32."""
    path = folder / "model.gguf"
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    size = config["vocab_size"]
    # Prompts are token ids: the tokenizer only has to be there.
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{token}" for token in range(size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * size)
    writer.add_token_merges(["t 0"])
    writer.add_eos_token_id(config["eos_token_id"])
    for name, weight in np.load(folder / "weights.npz").items():
        writer.add_tensor(_name(name), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    layer, part = name.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_NAMES[part.removesuffix('.weight')]}.weight"


def build(path: Path, threads: int, sequences: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = sequences
    params.n_ctx = CONTEXT_TOKENS * sequences
    params.n_batch = params.n_ubatch = MAX_BATCH_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    # Keys and values as the engine has them; the default is float16.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.verbosity = 0
    return xllamacpp.Server(params)


def generate(server: Any, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
    """Decode all prompts at once; return seconds and the number of new tokens."""
    request = {
        "prompt": prompts if len(prompts) > 1 else prompts[0],
        "n_predict": new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    start = perf_counter()
    answer = server.handle_completions(request)
    seconds = perf_counter() - start
    ends = [choice["finish_reason"] for choice in answer["choices"]]
    if ends != ["length"] * len(prompts):
        raise RuntimeError(f"not every text is whole: {ends}")
    return {"seconds": seconds, "tokens": new_tokens * len(ends)}


def main() -> None:
    folder, threads, sequences = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    server = build(write(folder), threads, sequences)
    sys.stdout.write(json.dumps({"version": version("xllamacpp")}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        question = json.loads(line)
        sys.stdout.write(json.dumps(generate(server, **question)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
