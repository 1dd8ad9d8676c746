"""transformers beside the engine, in a process of its own: how its threads wait is its own affair.

    python -m benchmarks.transformers_peer MODEL THREADS DTYPE… < questions

holds a benchmark model in one or two types of number and answers one JSON line with another.
"""

import json
import sys
from contextlib import redirect_stdout
from time import perf_counter

import torch
import transformers

from benchmarks import models, peers
from benchmarks.peer_process import PeerProcess


class Transformers(PeerProcess):
    """A benchmark model under transformers; use it in `with`."""

    def __init__(self, name: str, *, threads: int, dtypes: tuple[str, ...]) -> None:
        self._dtypes = dtypes
        super().__init__([sys.executable, "-m", __name__, name, threads, *dtypes])

    def generate(
        self, prompts: list[list[int]], new_tokens: int, *, dtype: str
    ) -> dict[str, float]:
        """Return `seconds` and `tokens` of decoding all prompts in one static batch."""
        return self.ask(run="generate", dtype=dtype, prompts=prompts, new_tokens=new_tokens)

    def continuous_batching(
        self, prompts: list[list[int]], new_tokens: int, *, dtype: str
    ) -> dict[str, float]:
        """Return `seconds` and `tokens` of decoding all prompts with continuous batching."""
        run = "continuous_batching"
        return self.ask(run=run, dtype=dtype, prompts=prompts, new_tokens=new_tokens)

    def faster_dtype(self, prompts: list[list[int]], new_tokens: int) -> str:
        """Return the type in which `generate` takes less time for such prompts."""
        if len(self._dtypes) == 1:
            return self._dtypes[0]
        return min(
            self._dtypes,
            key=lambda dtype: self.generate(prompts, new_tokens, dtype=dtype)["seconds"],
        )


def main() -> None:
    name, threads, *dtypes = sys.argv[1:]
    torch.set_num_threads(int(threads))
    answers = sys.stdout
    # Whatever a library has to say must not come between the answers.
    with redirect_stdout(sys.stderr):
        answers.write(json.dumps({"version": transformers.__version__}) + "\n")
        answers.flush()
        built = {dtype: models.build(name, dtype=getattr(torch, dtype)) for dtype in dtypes}
        for line in sys.stdin:
            question = json.loads(line)
            run = getattr(peers, question["run"])
            start = perf_counter()
            tokens = run(built[question["dtype"]], question["prompts"], question["new_tokens"])
            answer = {"seconds": perf_counter() - start, "tokens": tokens}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
