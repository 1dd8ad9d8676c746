"""Runs the parts that are asked for."""

import os
from pathlib import Path

import torch

import benchmarks.constraints
from benchmarks.constraints.cases import WIDE
from benchmarks.constraints.choose import choose
from benchmarks.constraints.engine import wide_model
from benchmarks.constraints.hostile import hostile
from benchmarks.constraints.outlines import against_outlines
from benchmarks.constraints.programs import compilations, masks
from benchmarks.constraints.soak import soak
from benchmarks.constraints.steps import steps
from benchmarks.constraints.suite import suite
from benchmarks.constraints.vocabulary import wide_tokenizer
from benchmarks.harness import Report, arguments
from bosal_decoding import Vocabulary
from bosal_decoding.constraints.compiler import ConstraintCompiler


def main() -> None:
    parser = arguments(benchmarks.constraints.__doc__ or "")
    parts = ["masks", "compile", "steps", "outlines", "hostile", "soak", "choose", "suite"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--verbose", action="store_true", help="print what the suite turns away")
    parser.add_argument("--runner", default="auto", choices=["auto", "torch", "openvino"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = Report("constraints", options)
    compiler = ConstraintCompiler()
    if "masks" in options.parts or "compile" in options.parts:
        vocabulary = Vocabulary.from_tokenizer(wide_tokenizer(WIDE))
        if "masks" in options.parts:
            masks(report, vocabulary, compiler)
        if "compile" in options.parts:
            compilations(report, vocabulary)
    if "steps" in options.parts:
        steps(report, wide_model("500m"), compiler)
    if "outlines" in options.parts:
        against_outlines(report, compiler)
    compiler.close()
    if "hostile" in options.parts:
        hostile(report)
    if "soak" in options.parts:
        soak(report)
    if "choose" in options.parts:
        choose(report)
    folder = os.environ.get("BOSAL_JSON_SCHEMA_SUITE")
    if "suite" in options.parts and folder:
        suite(report, Path(folder))
    report.finish()


if __name__ == "__main__":
    main()
