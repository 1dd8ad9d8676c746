"""All that is to be checked and measured on a CUDA device, in one run of bounded length.

    python benchmarks/device.py --out FOLDER [--seconds 480] [--wheels FOLDER]

Needs nothing installed but torch, triton and pytest: other packages may come as wheels, for a
machine without a network. Stages run in order of importance, each in a process of its own that is
ended at its limit; a failing one stops nothing. Whatever was found so far is in FOLDER at any time:
one log, a JSON file for each stage that measures, and `device.json`, how each ended.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("", "proto", "kernels", "decoding", "server", "clients/python", "lab")
# Of a stage's output as much is shown at its end.
SHOWN_LINES = 25
# Compilers of kernels that run side by side: compiling is most of what the tests take.
NUM_WORKERS = 12


@dataclass(frozen=True)
class Stage:
    """A command, and the seconds it may take."""

    name: str
    command: tuple[str, ...]
    seconds: int
    # Skipped where there is no such program.
    needs: str = ""


def python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, *arguments)


def checks(*what: str, workers: int) -> tuple[str, ...]:
    """Return a run of the tests that need a device, one process for several at a time."""
    spread = ("-n", str(workers), "--dist", "load") if workers > 1 else ()
    options = ("-q", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default", "--tb=short")
    return python("-m", "pytest", *options, "--timeout=150", *spread, *what)


def stages(out: Path) -> list[Stage]:
    def benchmark(name: str, module: str, *arguments: str) -> tuple[str, ...]:
        return python("-m", f"benchmarks.{module}", "--json", str(out / f"{name}.json"), *arguments)

    peers = ("--peers", "torch_sort", "torch_topk", "processors", "flashinfer")
    # Both scenarios of the headline figures first.
    order = ("--scenarios", "everything", "everything_but_moments", "usual", "guidance", "greedy",
             "mask", "logprobs", "proxy")  # fmt: skip
    rest = ("--shapes", "8x32000", "1x32000", "256x151936", "--peers", "processors")
    compiled = ("--scenarios", "everything", "usual", "--peers", "torch_compile")
    widest = ("--shapes", "64x128256", "--types")
    engine = ("tests/decoding", "tests/server/engine")
    on_cuda = ("--device", "cuda", "--models", "500m")
    return [
        Stage("machine", python("-c", _MACHINE), 60),
        Stage("kernel_tests", checks("tests/kernels", workers=NUM_WORKERS), 140),
        Stage("headline", benchmark("headline", "kernels", *widest, "bf16", *order, *peers), 100),
        Stage("engine_tests", checks(*engine, workers=NUM_WORKERS), 90),
        Stage("engine", benchmark("engine", "engine", *on_cuda, "--batches"), 60),
        Stage("fp32", benchmark("fp32", "kernels", *widest, "fp32", *peers), 60),
        Stage("shapes", benchmark("shapes", "kernels", *rest, "--types", "bf16"), 80),
        Stage("peers", benchmark("peers", "engine", *on_cuda), 80),
        Stage("profile", _profile(), 60, needs="ncu"),
        Stage("memory_errors", _sanitizer(), 90, needs="compute-sanitizer"),
        Stage("compiled", benchmark("compiled", "kernels", *widest, "bf16", *compiled), 120),
    ]


_MACHINE = """
import platform, torch, triton, transformers
print('python', platform.python_version(), 'torch', torch.__version__, 'cuda', torch.version.cuda)
print('triton', triton.__version__, 'transformers', transformers.__version__)
print(torch.cuda.get_device_properties(0))
"""


_STEP = """
from benchmarks.kernel_scenarios import SCENARIOS, Case
import torch
case = Case(SCENARIOS['everything'], 64, 128256, torch.bfloat16, 'cuda', num_inputs=2)
for rows in case.inputs:
    case.step(rows)
torch.cuda.synchronize()
"""


def _sanitizer() -> tuple[str, ...]:
    which = "tests/kernels/test_fused_on_device.py::test_rows_are_drawn_as_on_the_cpu"
    return ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9",
            *checks(f"{which}[0-4097]", workers=1))  # fmt: skip


def _profile() -> tuple[str, ...]:
    sections = ("--section", "SpeedOfLight", "--section", "Occupancy", "--section", "LaunchStats")
    return ("ncu", "--kernel-name", "regex:control_reduce_kernel|select_kernel", "--launch-count",
            "4", *sections,
            *python("-c", _STEP))  # fmt: skip


def install(wheels: Path, into: Path) -> None:
    """Unpack wheels where the stages look first."""
    files = [str(file) for file in sorted(wheels.glob("*.whl"))]
    command = python("-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile",
                     "--upgrade", "--target", str(into), *files)  # fmt: skip
    if subprocess.run(command).returncode:
        say(f"{wheels} could not be installed; what needs it will fail")


def run(stage: Stage, seconds: float, environment: dict[str, str], log: Path) -> str:
    """Run a stage for so long at most; return how it ended."""
    if stage.needs and shutil.which(stage.needs) is None:
        return f"skipped: {stage.needs} is not installed"
    with log.open("a") as file:
        process = subprocess.Popen(
            stage.command,
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"cut off after {seconds:.0f} s"
    return "passed" if code == 0 else f"failed with {code}"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=480, help="for all of it (default 480)")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="install these beforehand")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone")
    options = parser.parse_args()
    begin = time.monotonic()
    out: Path = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    path = [str(ROOT / part) for part in PARTS]
    if options.wheels:
        site = Path(tempfile.mkdtemp(prefix="bosal-wheels-"))
        install(options.wheels, site)
        path.insert(0, str(site))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*path, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
    }
    ends: dict[str, dict[str, object]] = {}
    chosen = [one for one in stages(out) if not options.only or one.name in options.only]
    for stage in chosen:
        started = time.monotonic()
        left = options.seconds - (started - begin)
        log = out / "device.log"
        with log.open("a") as file:
            file.write(f"== {stage.name}: {' '.join(stage.command)}\n")
        begin_of_log = log.stat().st_size
        limit = min(stage.seconds, left)
        end = run(stage, limit, environment, log) if left > 10 else "no time was left"
        taken = time.monotonic() - started
        ends[stage.name] = {"end": end, "seconds": round(taken, 1), "command": list(stage.command)}
        (out / "device.json").write_text(json.dumps(ends, indent=2) + "\n")
        say(f"== {stage.name}: {end}, {taken:.0f} s")
        lines = log.read_bytes()[begin_of_log:].decode(errors="replace").splitlines()
        say("\n".join(lines[-SHOWN_LINES:]))
    say("== all")
    for name, one in ends.items():
        say(f"{name:14} {one['seconds']:6} s  {one['end']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
