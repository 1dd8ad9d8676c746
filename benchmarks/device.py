"""All that is to be checked and measured on a CUDA device, in one run of bounded length.

    python benchmarks/device.py --out FOLDER [--seconds 480] [--wheels FOLDER]

Needs nothing installed but torch, triton and pytest: other packages may come as wheels, for a
machine without a network. Stages run in order of importance, each in a process of its own that is
ended at its limit; a failing one stops nothing. Those that mostly compile run side by side, what is
timed runs alone. Whatever was found so far is in FOLDER at any time: a log of each stage, a JSON
file of each that measures, and `device.json`, how each ended.
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("", "proto", "kernels", "decoding", "server", "clients/python", "lab")
# Of a stage's output as much is shown at its end.
SHOWN_LINES = 25
# A stage is not begun with less.
LEAST_SECONDS = 10
# Nearly as many as there are tests: each compiles kernels for most of its time, some for minutes.
NUM_WORKERS = 30


@dataclass(frozen=True)
class Stage:
    """A command, and the seconds it may take."""

    name: str
    command: tuple[str, ...]
    seconds: int
    # Skipped where there is no such program.
    needs: str = ""
    # Whether it may run while its neighbours do: nothing in it is timed.
    is_shared: bool = False


def python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, *arguments)


def checks(*what: str, workers: int) -> tuple[str, ...]:
    """Return a run of the tests that need a device, one process for several at a time."""
    spread = ("-n", str(workers), "--dist", "load") if workers > 1 else ()
    options = ("-q", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default", "--tb=short")
    return python("-m", "pytest", *options, "--timeout=240", *spread, *what)


def stages(out: Path, only: Sequence[str] = ()) -> list[Stage]:
    """Return what there is to do, or the part of it that is chosen."""

    def benchmark(name: str, module: str, *arguments: str) -> tuple[str, ...]:
        return python("-m", f"benchmarks.{module}", "--json", str(out / f"{name}.json"), *arguments)

    peers = ("--peers", "torch_sort", "torch_topk", "processors", "flashinfer",
             "xgrammar_mask_alone")  # fmt: skip
    # Both scenarios of the headline figures first.
    order = ("--scenarios", "everything", "everything_but_moments", "usual", "guidance", "greedy",
             "mask", "logprobs", "proxy")  # fmt: skip
    widest = ("--shapes", "64x128256", "--types")
    headline = ("kernels", *widest, "bf16", *order)
    rest = ("--shapes", "8x32000", "1x32000", "256x151936", "--peers", "processors")
    compiled = ("--scenarios", "everything", "usual", "--peers", "torch_compile")
    engine = ("--device", "cuda", "--models", "500m", "--batches", "32", "8", "1", "--rounds", "3")
    # The engine's first: they compile most, and wait for each other.
    tests = ("tests/server/engine/test_device_path.py", "tests/decoding/test_fused_draw.py",
             "tests/kernels/test_fused_on_device.py",
             "tests/kernels/test_bitmask_apply.py")  # fmt: skip
    found = [
        Stage("machine", python("-c", _MACHINE), 60),
        Stage("headline", benchmark("headline", *headline, *peers), 120),
        Stage("compile_engines", python("-c", _ENGINES), 150, is_shared=True),
        Stage("tests", checks(*tests, workers=NUM_WORKERS), 200, is_shared=True),
        Stage("engine", benchmark("engine", "engine", *engine), 90),
        Stage("serve", benchmark("serve", "device_server"), 60),
        Stage("fp32", benchmark("fp32", "kernels", *widest, "fp32", *peers), 60),
        Stage("shapes", benchmark("shapes", "kernels", *rest, "--types", "bf16"), 80),
        Stage("profile", _profile(), 60, needs="ncu"),
        Stage("memory_errors", _sanitizer(), 90, needs="compute-sanitizer"),
        Stage("compiled", benchmark("compiled", "kernels", *widest, "bf16", *compiled), 120),
    ]  # fmt: skip
    return [stage for stage in found if not only or stage.name in only]


_MACHINE = """
import platform, torch, triton, transformers
print('python', platform.python_version(), 'torch', torch.__version__, 'cuda', torch.version.cuda)
print('triton', triton.__version__, 'transformers', transformers.__version__)
print(torch.cuda.get_device_properties(0))
"""


# What the engine benchmark and the server that is checked will launch, both at once: a set takes as
# long as its longest kernel, a minute.
_ENGINES = """
import logging, torch
from concurrent.futures import ThreadPoolExecutor
from benchmarks.models import VOCABULARY_SIZE
from bosal_decoding.kernel_compiler import compile_builds
logging.basicConfig(level='INFO', format='%(asctime)s %(message)s')
types, sizes = (torch.bfloat16, torch.float32), (VOCABULARY_SIZE, 4096)
with ThreadPoolExecutor(2) as pool:
    list(pool.map(compile_builds, types, sizes, sizes))
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
            *checks(f"{which}[4097-0]", workers=1))  # fmt: skip


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


class Running:
    """A stage under way, its output in a log of its own."""

    def __init__(
        self, stage: Stage, seconds: float, environment: dict[str, str], out: Path
    ) -> None:
        self.stage = stage
        self._begin = time.monotonic()
        self._seconds = min(stage.seconds, seconds)
        self._log = out / f"{stage.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._excuse = ""
        if stage.needs and shutil.which(stage.needs) is None:
            self._excuse = f"skipped: {stage.needs} is not installed"
        elif seconds < LEAST_SECONDS:
            self._excuse = "no time was left"
        else:
            with self._log.open("w") as file:
                file.write(" ".join(stage.command) + "\n")
                file.flush()
                self._process = subprocess.Popen(
                    stage.command,
                    cwd=ROOT,
                    env=environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def wait(self) -> dict[str, object]:
        """Wait for its end, or end it at its limit; return how it ended."""
        end = self._excuse or self._await()
        taken = round(time.monotonic() - self._begin, 1)
        say(f"== {self.stage.name}: {end}, {taken:.0f} s")
        if self._process is not None:
            lines = self._log.read_text(errors="replace").splitlines()
            say("\n".join(lines[-SHOWN_LINES:]))
        return {"end": end, "seconds": taken, "command": list(self.stage.command)}

    def _await(self) -> str:
        assert self._process is not None
        left = self._begin + self._seconds - time.monotonic()
        try:
            code = self._process.wait(max(left, 0))
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            return f"cut off after {self._seconds:.0f} s"
        return "passed" if code == 0 else f"failed with {code}"


def together(chosen: list[Stage]) -> list[list[Stage]]:
    """Return stages in turn; neighbours that may run side by side are one turn."""
    turns: list[list[Stage]] = []
    for stage in chosen:
        if turns and stage.is_shared and turns[-1][-1].is_shared:
            turns[-1].append(stage)
        else:
            turns.append([stage])
    return turns


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=480, help="for all of it (default 480)")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="install these beforehand")
    names = [stage.name for stage in stages(Path())]
    parser.add_argument("--only", nargs="+", choices=names, metavar="STAGE", help=", ".join(names))
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
    for turn in together(stages(out, options.only or ())):
        left = options.seconds - (time.monotonic() - begin)
        running = [Running(stage, left, environment, out) for stage in turn]
        for one in running:
            ends[one.stage.name] = one.wait()
            (out / "device.json").write_text(json.dumps(ends, indent=2) + "\n")
    say("== all")
    for name, end in ends.items():
        say(f"{name:16} {end['seconds']:6} s  {end['end']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
