"""Triton kernels compiled for devices that are not at hand, and what the machine code needs."""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler as nvidia
from triton.compiler import ASTSource

# Compute capabilities, and what ptxas calls them.
TARGETS = {80: "sm_80", 90: "sm_90a"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One configuration of a kernel: the types of its arguments and its constants."""

    kernel: Any
    # Triton's names of types, as "*bf16" or "i32".
    types: Mapping[str, str]
    constants: Mapping[str, int | bool]
    num_warps: int
    # Pointers always are: numbers that are divisible by 16.
    aligned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCode:
    """What a compiled kernel needs and does."""

    registers: int
    # Bytes of a thread's stack: registers that ran out.
    spills: int
    shared_bytes: int
    # Instructions of the whole kernel.
    instructions: int
    # Those that a thread executes on its way through all wide loads; loops taken once.
    streaming_instructions: int
    wide_loads: int
    # Of one processor, ptxas and all.
    compile_seconds: float


def compile_ahead(source: Source, arch: int) -> MachineCode:
    """Compile for a compute capability; needs no device and no driver."""
    names = source.kernel.arg_names
    signature = {name: source.types.get(name, "constexpr") for name in names}
    unknown = [name for name, kind in signature.items() if kind == "constexpr"]
    if set(unknown) != set(source.constants):
        raise ValueError(f"constants {sorted(source.constants)} for {sorted(unknown)}")
    even = [["tt.divisibility", 16]]
    attributes = {
        (place,): even
        for place, name in enumerate(names)
        if signature[name].startswith("*") or name in source.aligned
    }
    began = _processor_seconds()
    compiled = triton.compile(
        ASTSource(
            fn=source.kernel,
            signature=signature,
            constexprs=dict(source.constants),
            attrs=attributes,
        ),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": source.num_warps, "enable_fp_fusion": False},
    )
    seconds = _processor_seconds() - began
    tools = Path(nvidia.get_ptxas(arch).path).parent
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        usage = _run(tools / "cuobjdump", "--dump-resource-usage", binary)
        sass = _run(tools / "nvdisasm", "-c", binary)
    blocks = _blocks(sass)
    return MachineCode(
        registers=_number(r"REG:(\d+)", usage),
        spills=_number(r"STACK:(\d+)", usage) + _number(r"LOCAL:(\d+)", usage),
        shared_bytes=int(compiled.metadata.shared),
        instructions=sum(len(block.lines) for block in blocks),
        streaming_instructions=_streaming(blocks),
        wide_loads=sum(block.wide_loads for block in blocks),
        compile_seconds=seconds,
    )


@dataclass(slots=True)
class _Block:
    """Instructions without a branch among them, and where control goes on."""

    lines: list[str]
    following: list[int]

    @property
    def wide_loads(self) -> int:
        return sum(bool(re.search(r"LDG\.E\S*\.128", line)) for line in self.lines)


def _blocks(sass: str) -> list[_Block]:
    """Split disassembled code at labels and branches."""
    blocks = [_Block([], [])]
    labels: dict[str, int] = {}
    targets: list[tuple[int, str]] = []
    ends = False
    for line in sass.splitlines():
        label = re.match(r"\s*(\.L_\S+):", line)
        code = re.search(r"(?:/\*[0-9a-f]{4,}\*/)\s+(.*?)\s*;", line)
        if label:
            if blocks[-1].lines:
                if not ends:
                    blocks[-1].following.append(len(blocks))
                blocks.append(_Block([], []))
            labels[label[1]] = len(blocks) - 1
            ends = False
        elif code and not code[1].startswith("NOP"):
            blocks[-1].lines.append(code[1])
            branch = re.search(r"\bBRA\b.*?`\((\.L_\S+)\)", code[1])
            ends = bool(re.match(r"(BRA(?!.*\bP\d)|EXIT)", code[1]))
            if branch:
                targets.append((len(blocks) - 1, branch[1]))
            if branch or ends:
                if not ends:
                    blocks[-1].following.append(len(blocks))
                blocks.append(_Block([], []))
                ends = False
    for number, label_ in targets:
        if label_ in labels:
            blocks[number].following.append(labels[label_])
    return blocks


def _streaming(blocks: list[_Block]) -> int:
    """Return the fewest instructions on a way from the start that meets the most wide loads."""
    best: dict[int, tuple[int, int]] = {}
    for number in reversed(range(len(blocks))):
        block = blocks[number]
        # Backward branches are loops: taken once.
        ways = [best[after] for after in block.following if after in best and after > number]
        wide, cost = max(ways, default=(0, 0))
        best[number] = (wide + block.wide_loads, cost - len(block.lines))
    return -best[0][1]


def _processor_seconds() -> float:
    """Return what this process and its children have used."""
    return sum(os.times()[:4])


def _run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout + done.stderr


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, text
    return int(found[1])
