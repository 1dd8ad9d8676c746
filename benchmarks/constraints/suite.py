"""The JSON-Schema-Test-Suite: what compiles, and what that lets through or turns away."""

import json
from collections import Counter
from pathlib import Path

from rich.console import Console

from benchmarks import models
from benchmarks.harness import Report
from bosal_decoding import Vocabulary
from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.errors import InvalidConstraint


def suite(report: Report, folder: Path) -> None:
    """Score the JSON-Schema-Test-Suite, draft 2020-12: what compiles, and what it lets through."""
    tokenizer = models.tokenizer(300)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    compiler = ConstraintCompiler()
    single = [vocabulary.token_bytes.index(bytes([byte])) for byte in range(256)]
    groups = compiled = accepts = rejects = invalid = valid = 0
    causes: Counter[str] = Counter()
    for file in sorted((folder / "tests" / "draft2020-12").glob("*.json")):
        for group in json.loads(file.read_text()):
            groups += 1
            try:
                fields = {"json_schema": json.dumps(group["schema"])}
                program = compiler.compile(Constraint.read(fields, ""), vocabulary)
            except InvalidConstraint:
                continue
            compiled += 1
            for test in group["tests"]:
                text = json.dumps(test["data"], ensure_ascii=False)
                tokens = [single[byte] for byte in text.encode()]
                state = program.new_state()
                is_accepted = state.validate(tokens) == len(tokens) and state.completes(tokens)
                invalid += not test["valid"]
                valid += test["valid"]
                accepts += is_accepted and not test["valid"]
                if test["valid"] and not is_accepted:
                    rejects += 1
                    causes[file.stem] += 1
                    if report.options.verbose:
                        where = (file.stem, group["description"], test["description"])
                        Console().print(": ".join(where))
    compiler.close()
    report.figure("suite_compiled", compiled / groups)
    report.figure("suite_false_accepts", accepts)
    report.figure("suite_false_rejects", rejects / max(valid, 1))
    for cause, count in sorted(causes.items()):
        report.detail(f"suite_false_rejects_{cause}", [count])
