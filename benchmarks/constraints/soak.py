"""A thousand texts of every kind, each judged without the matcher."""

import json
import re
from typing import Any

import jsonschema

import bosal_models
from benchmarks.constraints.cases import KINDS
from benchmarks.constraints.engine import Bench, Texts
from benchmarks.harness import Report
from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_server.model import load_model


def soak(report: Report) -> None:
    """Generate texts of every kind on the embedded model; each is whole, or says why not."""
    loaded = load_model("base", str(bosal_models.path("base")))
    compiler = ConstraintCompiler()
    bench = Bench(loaded, report.options.runner)
    count = 20 if report.options.quick else 1000
    for kind, fields in KINDS.items():
        constraint = Constraint.read(fields, "")
        program = compiler.compile(constraint, loaded.vocabulary)
        plan = bench.plan(constraint, rules=[])
        sinks = [Texts(1) for _ in range(count)]
        shortest = len(program.close or ())
        for start in range(0, count, 32):
            batch = sinks[start : start + 32]
            for offset, sink in enumerate(batch):
                prompt = loaded.vocabulary.encode("Q: Tell me something.\nA:")
                bench.submit(
                    plan, program, prompt, sink, seed=start + offset,
                    max_tokens=shortest + (start + offset) % 40,
                )  # fmt: skip
            for sink in batch:
                assert sink.done.wait(300)
        whole = [sink for sink in sinks if sink.reason.startswith(("CONSTRAINT_C", "STOP"))]
        wrong = [sink.text for sink in whole if not satisfies(fields, sink.text)]
        report.figure(f"soak_{kind}_whole", len(whole) / count)
        report.figure(f"soak_{kind}_wrong", len(wrong))
    bench.loop.stop()
    compiler.close()


def satisfies(fields: dict[str, Any], text: str) -> bool:
    """Judge a text without the matcher."""
    if "choice" in fields:
        return text in fields["choice"]
    if "regex" in fields:
        return re.fullmatch(fields["regex"], text, re.ASCII) is not None
    if "json_schema" in fields:
        try:
            value = json.loads(text)
        except ValueError:
            return False
        return bool(jsonschema.Draft202012Validator(fields["json_schema"]).is_valid(value))
    depth = 0
    for char in text:
        depth += {"(": 1, ")": -1}.get(char, 0)
        if depth < 0:
            return False
    term = re.compile(r"\((?:[0-9]+\+)*[0-9]+\)")
    while term.search(text):
        text = term.sub("0", text)
    return depth == 0 and re.fullmatch(r"([0-9]+\+)*[0-9]+", text) is not None
