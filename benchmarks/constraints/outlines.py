"""Outlines' own logits processors in transformers' `generate`, beside the engine, 128k tokens."""

import json
import time
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from outlines import Transformers
from outlines.backends import get_json_schema_logits_processor

from benchmarks import models
from benchmarks.constraints.cases import NESTED, WIDE
from benchmarks.constraints.engine import Bench, Texts, save_wide
from benchmarks.harness import Report, interleave, ratio
from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.program import Program
from bosal_server.model import LoadedModel, load_model

# Its default, and the one it has in common with us.
_BACKENDS = {"core": "outlines_core", "llguidance": "llguidance"}
_PROMPT = 32


def against_outlines(report: Report, compiler: ConstraintCompiler) -> None:
    """Time Outlines' own processors in `generate` beside the engine, on the 15m model.

    Both without a constraint, too: what is left of the ratio is what the constraint costs. What
    Outlines builds before the first token is timed apart.
    """
    loaded, hf, tokenizer = _models()
    constraint = Constraint.read({"json_schema": NESTED}, "")
    started = time.perf_counter()
    program = compiler.compile(constraint, loaded.vocabulary)
    report.detail("engine_build_seconds", [time.perf_counter() - started])
    bench = Bench(loaded, report.options.runner)
    processors = _processors(report, Transformers(hf, tokenizer))
    new_tokens = 8 if report.options.quick else 48
    for batch in (1, 32):
        given = drawn_prompts(batch)

        def engine(constrained: bool, given: list[list[int]] = given) -> float:
            return _engine_speed(
                bench, constraint, program if constrained else None, given, new_tokens
            )

        def generate(processor: Any, given: list[list[int]] = given) -> float:
            return _generate_speed(hf, processor, given, new_tokens)

        contestants: dict[str, Callable[[], float]] = {
            "engine": partial(engine, True),
            "engine_free": partial(engine, False),
            "transformers_free": partial(generate, None),
        }
        for name, processor in processors.items():
            contestants[f"outlines_{name}"] = partial(generate, processor)
        samples = interleave(contestants, report.options.rounds)
        for name, speeds in samples.items():
            report.detail(f"{name}_15m_b{batch}_tokens_per_second", speeds)
        ratios = {one: ratio(samples, "engine", f"outlines_{one}") for one in processors}
        for name, value in ratios.items():
            report.figure(f"vs_outlines_{name}_15m_b{batch}", value)
        # The faster of its own.
        report.figure(f"vs_outlines_15m_b{batch}", min(ratios.values()))
        cost = ratio(samples, "engine_free", "engine")
        report.figure(f"constraint_cost_15m_b{batch}", cost)
        fastest = min(ratios, key=lambda one: ratios[one])
        cost = ratio(samples, "transformers_free", f"outlines_{fastest}")
        report.figure(f"outlines_constraint_cost_15m_b{batch}", cost)
    bench.loop.stop()


def drawn_prompts(batch: int) -> list[list[int]]:
    """Return prompts of whole tokens; those of the small vocabulary are in the wide one, too."""
    return models.prompts(batch, _PROMPT, seed=batch)


def _models() -> tuple[LoadedModel, Any, Any]:
    """Load one model and tokenizer for both, in the type that this machine computes fastest in."""
    with TemporaryDirectory() as folder:
        save_wide("15m", folder)
        loaded = load_model("15m", folder, dtype="auto")
        dtype = getattr(torch, loaded.dtype)
        hf = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        tokenizer: Any = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    return loaded, hf, tokenizer


def _processors(report: Report, model: Any) -> dict[str, Any]:
    processors = {}
    for name, backend in _BACKENDS.items():
        started = time.perf_counter()
        processors[name] = get_json_schema_logits_processor(backend, model, json.dumps(NESTED))
        report.detail(f"outlines_{name}_build_seconds", [time.perf_counter() - started])
    return processors


def _engine_speed(
    bench: Bench,
    constraint: Constraint,
    program: Program | None,
    given: list[list[int]],
    new_tokens: int,
) -> float:
    plan = bench.plan(None if program is None else constraint)
    sinks = [Texts(1) for _ in given]
    started = time.perf_counter()
    for sink, prompt in zip(sinks, given, strict=True):
        # Room enough that none is closed before it is cancelled. Bytes that must follow are taken
        # several tokens at once, as always; this schema and model have few of them.
        bench.submit(plan, program, prompt, sink, max_tokens=400)
    while any(len(one.times) < new_tokens and not one.done.is_set() for one in sinks):
        time.sleep(0.002)
    seconds = time.perf_counter() - started
    made = sum(min(len(sink.times), new_tokens) for sink in sinks)
    bench.cancel_last(len(given))
    for sink in sinks:
        assert sink.done.wait(60)
    return made / seconds


def _generate_speed(hf: Any, processor: Any, given: list[list[int]], new_tokens: int) -> float:
    prompts = torch.tensor(given)
    if processor is not None:
        processor.reset()
    started = time.perf_counter()
    with torch.inference_mode():
        out = hf.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=new_tokens,
            do_sample=False,
            logits_processor=[] if processor is None else [processor],
            pad_token_id=WIDE - 1,
        )
    made = (out[:, _PROMPT:] != WIDE - 1).sum()
    return float(made) / (time.perf_counter() - started)
