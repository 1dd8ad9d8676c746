"""Run by its test: compiles the mask kernel ahead of time and prints what it needs."""

import json
import re
import subprocess
import tempfile

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from bosal_kernels.bitmask_apply import BLOCK, NUM_WARPS, bitmask_apply_kernel

found = []
for arch in (80, 90):
    for dtype in ("fp32", "bf16", "fp16"):
        source = ASTSource(
            fn=bitmask_apply_kernel,
            signature={
                "logits": f"*{dtype}",
                "rows": "*i64",
                "bits": "*i32",
                "vocab_size": "i32",
                "row_stride": "i32",
                "bit_stride": "i32",
                "BLOCK": "constexpr",
            },
            constexprs={"BLOCK": BLOCK},
            # Pointers, vocabulary and stride as a padded head has them.
            attrs={(place,): [["tt.divisibility", 16]] for place in range(5)},
        )
        target = GPUTarget("cuda", arch, 32)
        compiled = triton.compile(source, target=target, options={"num_warps": NUM_WARPS})
        ptx = compiled.asm["ptx"]
        name = "sm_90a" if arch == 90 else f"sm_{arch}"
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(ptx)
            file.flush()
            report = subprocess.run(
                [get_ptxas(arch).path, "-v", f"--gpu-name={name}", file.name, "-o", "/dev/null"],
                capture_output=True,
                text=True,
                check=True,
            ).stderr
        found.append(
            {
                "arch": arch,
                "dtype": dtype,
                "registers": int(re.findall(r"Used (\d+) registers", report)[0]),
                "spills": int(re.findall(r"(\d+) bytes spill stores", report)[0]),
                "wide_loads": len(re.findall(r"ld\.global[.\w]*v4", ptx)),
                "wide_stores": len(re.findall(r"st\.global[.\w]*v4", ptx)),
            }
        )
print(json.dumps(found))  # noqa: T201
