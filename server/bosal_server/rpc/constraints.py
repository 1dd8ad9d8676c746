"""Constraints on the wire: protobuf as the document a constraint is parsed from, and back."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from bosal.v1 import generation_pb2, model_pb2, recipe_pb2
from bosal_decoding.constraints import BACKENDS, KINDS
from bosal_decoding.constraints import limits as constraint_limits
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.program import Program


def constraint_document(message: recipe_pb2.Constraint) -> dict[str, Any]:
    """Read a constraint as a document; what the message leaves unset, the document lacks."""
    document: dict[str, Any] = {}
    match message.WhichOneof("kind"):
        case "choice":
            document["choice"] = list(message.choice.values)
        case "grammar":
            document["grammar"] = message.grammar.text
            if message.grammar.syntax:
                document["syntax"] = message.grammar.syntax
        case str(kind):
            document[kind] = getattr(message, kind)
    for option in ("backend", "whitespace"):
        if value := getattr(message, option):
            document[option] = value
    for flag in ("allow_unsupported", "rules_in_strings"):
        if getattr(message, flag):
            document[flag] = True
    return document


def constraint_message(document: Mapping[str, Any]) -> recipe_pb2.Constraint:
    """Write a constraint's document as protobuf."""
    message = recipe_pb2.Constraint(
        backend=document.get("backend", ""),
        whitespace=document.get("whitespace", ""),
        allow_unsupported=document.get("allow_unsupported", False),
        rules_in_strings=document.get("rules_in_strings", False),
    )
    if "choice" in document:
        message.choice.values.extend(document["choice"])
    elif "grammar" in document:
        message.grammar.text = document["grammar"]
        message.grammar.syntax = document.get("syntax", "")
    else:
        kind = next(kind for kind in KINDS if kind in document)
        setattr(message, kind, document[kind])
    return message


def compiled_constraint(program: Program) -> generation_pb2.CompiledConstraint:
    """Say what became of a constraint."""
    message = generation_pb2.CompiledConstraint(
        backend=program.backend, ignored_keywords=program.ignored
    )
    if program.close is not None:
        message.shortest_tokens = len(program.close)
    return message


def support(compiler: ConstraintCompiler) -> model_pb2.ConstraintSupport:
    """Say what a constraint may be on this server."""
    return model_pb2.ConstraintSupport(
        kinds=KINDS,
        backends=[name for name in BACKENDS if find_spec(name) is not None],
        python_types=sorted(compiler.types),
    )


def add_limits(message: model_pb2.Limits) -> None:
    """Fill in the limits of constraints."""
    message.max_constraint_bytes = constraint_limits.MAX_SPEC_BYTES
    message.max_constraint_depth = constraint_limits.MAX_DEPTH
    message.max_constraint_repetition = constraint_limits.MAX_REPETITION
    message.max_constraint_compile_seconds = constraint_limits.COMPILE_SECONDS
