"""OpenVINO GenAI as a peer: run by a Python that has it, answers one JSON line with another.

    python genai_peer.py FOLDER THREADS < questions

FOLDER holds a model as `benchmarks.genai` exports it. It imports nothing of this project.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import openvino
import openvino_genai

CACHE_GIB = 4
MAX_BATCH_TOKENS = 512


def add_tokenizer(folder: Path) -> None:
    """Convert the tokenizer, which the pipeline loads although it is given token ids."""
    from openvino_tokenizers import convert_tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    pair = convert_tokenizer(tokenizer, with_detokenizer=True)
    for model, name in zip(pair, ("tokenizer", "detokenizer"), strict=True):
        openvino.save_model(model, folder / f"openvino_{name}.xml")


def build(folder: Path, threads: int, precision: str) -> Any:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = CACHE_GIB
    scheduler.max_num_batched_tokens = MAX_BATCH_TOKENS
    scheduler.enable_prefix_caching = True
    # What the engine computes in; by default keys and values would be rounded to eight bits.
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
    }
    return openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", settings)


def greedy(new_tokens: int) -> Any:
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = new_tokens
    config.ignore_eos = True
    config.do_sample = False
    return config


def tensors(prompts: list[list[int]]) -> list[Any]:
    return [openvino.Tensor(np.array([ids], np.int64)) for ids in prompts]


def generate(pipeline: Any, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
    """Decode all prompts at once; return seconds and the number of new tokens."""
    start = perf_counter()
    results = pipeline.generate(tensors(prompts), [greedy(new_tokens)] * len(prompts))
    seconds = perf_counter() - start
    return {"seconds": seconds, "tokens": sum(len(one.m_generation_ids[0]) for one in results)}


def decode_step(pipeline: Any, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
    """Return the median time of the steps that decode one token of every prompt."""
    # A request whose handle is dropped is dropped too.
    handles = [
        pipeline.add_request(number, prompt, greedy(new_tokens))
        for number, prompt in enumerate(tensors(prompts))
    ]
    times = []
    while pipeline.has_non_finished_requests():
        start = perf_counter()
        pipeline.step()
        times.append(perf_counter() - start)
    # The last `new_tokens` steps but one decode every prompt, whatever prefill took before.
    return {"seconds": float(np.median(times[-new_tokens + 2 : -1])), "tokens": len(handles)}


def main() -> None:
    folder, threads, precision = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    if not (folder / "openvino_tokenizer.xml").exists():
        add_tokenizer(folder)
    pipeline = build(folder, threads, precision)
    sys.stdout.write(json.dumps({"version": version("openvino-genai")}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        question = json.loads(line)
        run = {"generate": generate, "decode_step": decode_step}[question.pop("run")]
        sys.stdout.write(json.dumps(run(pipeline, **question)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
