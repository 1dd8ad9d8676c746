"""Outlines' own logits processors in transformers' `generate`, beside the engine."""

import json
import time
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from outlines import Transformers
from outlines.backends import get_json_schema_logits_processor

from benchmarks import models
from benchmarks.constraints.cases import NESTED
from benchmarks.constraints.engine import Bench, Texts
from benchmarks.harness import Report, interleave, ratio
from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_server.model import load_model


def against_outlines(report: Report, compiler: ConstraintCompiler) -> None:
    """Time Outlines' own processors in `generate` beside the engine, on the 15m model."""
    with TemporaryDirectory() as folder:
        models.save("15m", folder)
        loaded = load_model("15m", folder, dtype="bfloat16")
        hf = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        tokenizer: Any = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    constraint = Constraint.read({"json_schema": NESTED}, "")
    program = compiler.compile(constraint, loaded.vocabulary)
    bench = Bench(loaded, report.options.runner)
    outlines_model = Transformers(hf, tokenizer)
    new_tokens = 8 if report.options.quick else 48
    for batch in (1, 32):

        def ours(batch: int = batch) -> float:
            plan = bench.plan(constraint)
            sinks = [Texts(1) for _ in range(batch)]
            started = time.perf_counter()
            for sink, prompt in zip(sinks, models.prompts(batch, 32, seed=batch), strict=True):
                # Room enough that none is closed before it is cancelled, and no token unpaid for:
                # log-probabilities keep fast-forwarding out.
                bench.submit(plan, program, prompt, sink, max_tokens=400, logprobs=0)
            while any(len(one.times) < new_tokens and not one.done.is_set() for one in sinks):
                time.sleep(0.002)
            seconds = time.perf_counter() - started
            made = sum(min(len(sink.times), new_tokens) for sink in sinks)
            bench.cancel_last(batch)
            for sink in sinks:
                assert sink.done.wait(60)
            return made / seconds

        def theirs(batch: int = batch) -> float:
            processor = get_json_schema_logits_processor(
                "llguidance", outlines_model, json.dumps(NESTED)
            )
            prompts = torch.tensor(models.prompts(batch, 32, seed=batch))
            started = time.perf_counter()
            with torch.inference_mode():
                out = hf.generate(
                    prompts,
                    attention_mask=torch.ones_like(prompts),
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    logits_processor=[processor],
                    pad_token_id=models.VOCABULARY_SIZE - 1,
                )
            made = (out[:, 32:] != models.VOCABULARY_SIZE - 1).sum()
            return float(made) / (time.perf_counter() - started)

        samples = interleave({"ours": ours, "theirs": theirs}, report.options.rounds)
        report.detail(f"engine_15m_b{batch}_tokens_per_second", samples["ours"])
        report.detail(f"outlines_15m_b{batch}_tokens_per_second", samples["theirs"])
        report.figure(f"vs_outlines_15m_b{batch}", ratio(samples, "ours", "theirs"))
    bench.loop.stop()
