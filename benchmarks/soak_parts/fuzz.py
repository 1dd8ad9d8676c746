"""mutated payloads and random requests of a valid shape; every call gets a described answer."""

import asyncio
import math
import random
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from benchmarks.harness import Report
from benchmarks.soak_parts.crowd import crowd
from benchmarks.subject import MODEL, subject
from bosal.v1 import experiment_pb2, generation_pb2, model_pb2, recipe_pb2
from bosal_decoding.recipe import load_shipped

_FILES: Final = (generation_pb2, recipe_pb2, experiment_pb2, model_pb2)
# No call of these sizes takes as long; one that does is hung.
_SECONDS: Final = 60.0
# Enough of a stream; what follows is cancelled.
_MESSAGES: Final = 20
_WORDS: Final = (
    "", "a", "Hi", MODEL, *load_shipped(), "temperature", "top_p", "eos_ramp", "json_schema",
    "logit_bias", "stop_strings", "guidance", "u1", "score", "x" * 300, "\u202e\u0000\U0001f40e",
    "[a-z]+", "(a*)*b", '{"type": "object"}', "root ::= root", "../../etc/passwd", "inline",
)  # fmt: skip
_NUMBERS: Final = (0, 1, 2, 3, 7, 16, 64, 255, 1 << 16, (1 << 31) - 1, (1 << 32) - 1)
_FLOATS: Final = (0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("inf"), float("nan"))
_MAX_DEPTH: Final = 5
# A connection has a hundred calls or so at once.
_CHANNELS: Final = 4


@dataclass(frozen=True, slots=True)
class Method:
    path: str
    request: type[Message]
    is_stream: bool


def methods() -> list[Method]:
    """Return every method of the contract."""
    return [
        Method(
            f"/{service.full_name}/{one.name}",
            GetMessageClass(one.input_type),
            bool(one.server_streaming),
        )
        for file in _FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for one in service.methods
    ]


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--mutated", type=int, default=100_000)
    parser.add_argument("--random", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=128, help="calls at once")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop asking after")


def run(options: Namespace, report: Report) -> None:
    mutated, shaped = (300, 300) if options.quick else (options.mutated, options.random)
    with subject("--max-running=32", "--log-level=WARNING") as server:
        until = time.monotonic() + options.seconds
        for name, number in (("mutated", mutated), ("random", shaped)):
            first = round(report.figures.get(f"fuzz_{name}", 0))
            begin = time.monotonic()
            storm = _storm(server.address, name == "mutated", range(first, number), until, options)
            outcomes = asyncio.run(storm)
            server.check()
            report.add(f"fuzz_{name}", outcomes.total())
            report.add(f"fuzz_{name}_seconds", time.monotonic() - begin)
            for code, count in sorted(outcomes.items()):
                report.add(f"fuzz_{name}_{code.lower()}", count)
            for wrong in ("UNKNOWN", "INTERNAL", "HUNG"):
                report.add(f"fuzz_{name}_{wrong.lower()}", 0)
        leaked = server.leaked()
        server.check()
    report.add("leaked_after_fuzz", leaked)
    report.write()
    wrong_ones = [name for name, count in report.figures.items() if count and _is_wrong(name)]
    assert not wrong_ones, f"{wrong_ones}: {report.figures}"


def _is_wrong(figure: str) -> bool:
    return figure.startswith("leaked") or figure.endswith(("_unknown", "_internal", "_hung"))


async def _storm(
    address: str, is_mutated: bool, numbers: range, until: float, options: Namespace
) -> Counter[str]:
    known = methods()
    own = [("grpc.use_local_subchannel_pool", 1)]
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, own))
            for _ in range(_CHANNELS)
        ]

        async def one(index: int) -> str:
            chance = random.Random(f"{options.seed} {is_mutated} {numbers[index]}")
            method = chance.choice(known)
            message = method.request()
            fill(message, chance)
            data = message.SerializeToString()
            if is_mutated:
                data = mutate(data, chance)
            return await _call(channels[index % _CHANNELS], method, data)

        return await crowd(len(numbers), options.width, one, until)


async def _call(channel: grpc.aio.Channel, method: Method, data: bytes) -> str:
    try:
        if not method.is_stream:
            unary: Any = channel.unary_unary(method.path)
            await unary(data, timeout=_SECONDS)
            return "OK"
        stream: Any = channel.unary_stream(method.path)
        call = stream(data, timeout=_SECONDS)
        left = _MESSAGES
        async for _ in call:
            left -= 1
            if not left:
                break
        call.cancel()
    except grpc.aio.AioRpcError as error:
        code = error.code()
        return "HUNG" if code is grpc.StatusCode.DEADLINE_EXCEEDED else code.name
    except asyncio.CancelledError:
        return "OK"
    return "OK"


def fill(message: Message, chance: random.Random, depth: int = 0) -> None:
    """Set a random part of a message's fields to random values of their types."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.45:
            continue
        if field.message_type is not None:
            if depth < _MAX_DEPTH:
                _fill_message(message, field, chance, depth)
        elif field.is_repeated:
            values = [_value(field, chance) for _ in range(chance.randint(0, 3))]
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, _value(field, chance))


def _fill_message(message: Message, field: Any, chance: random.Random, depth: int) -> None:
    child: Any = getattr(message, field.name)
    entry = field.message_type
    if entry.GetOptions().map_entry:
        value = entry.fields_by_name["value"]
        for _ in range(chance.randint(0, 2)):
            key = _value(entry.fields_by_name["key"], chance)
            if value.message_type is not None:
                fill(child[key], chance, depth + 1)
            else:
                child[key] = _value(value, chance)
    elif field.is_repeated:
        for _ in range(chance.randint(0, 2)):
            fill(child.add(), chance, depth + 1)
    else:
        child.SetInParent()
        fill(child, chance, depth + 1)


def _value(field: Any, chance: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return chance.randbytes(chance.randint(0, 20))
            return chance.choice(_WORDS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return chance.choice(field.enum_type.values).number
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return chance.choice(_FLOATS)
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_INT64:
            return min(chance.choice(_NUMBERS), (1 << 31) - 1) * chance.choice((1, 1, -1))
        case _:
            return chance.choice(_NUMBERS)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change a payload the way a broken or malicious client does."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        place = chance.randint(0, len(changed))
        match chance.randrange(6):
            case 0 if changed:
                changed[place % len(changed)] ^= 1 << chance.randrange(8)
            case 1:
                changed[place:place] = chance.randbytes(chance.randint(1, 8))
            case 2:
                del changed[place : place + chance.randint(1, 8)]
            case 3:
                del changed[place:]
            case 4:
                changed[place:place] = changed[: chance.randint(0, 64)]
            case _:
                changed[place:place] = b"\xff" * chance.randint(1, 11)
    return bytes(changed)
