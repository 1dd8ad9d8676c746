"""The pipeline with a mixed batch of recipes against transformers' processors, row by row."""

from statistics import median

import torch
from torch import Tensor

from benchmarks import models
from benchmarks.engines import decode_step_seconds
from benchmarks.harness import Report, arguments, interleave, ratio, seconds
from benchmarks.processors import MIXED, PerRequest, gaussian_rows, zipf_rows
from bosal_decoding import Plan, Recipe, Vocabulary
from bosal_decoding.compile import compile
from bosal_decoding.pipeline import Pipeline

ROWS = 32
HISTORY = 200


class Batch:
    """32 slots in the middle of their answers, recipes in turn."""

    def __init__(self, plans: list[Plan], width: int, histories: list[list[int]]) -> None:
        self._slots = list(range(len(histories)))

        self._pipeline = Pipeline(width, len(histories))
        for slot, history in enumerate(histories):
            plan = plans[slot % len(plans)]
            self._pipeline.add(slot, plan, history=(), seed=slot, choice=0, logprobs=-1)
            self._pipeline.commit([slot], [history])

    def step(self, logits: Tensor) -> list[int]:
        """Return one token per row of [B, V] and commit them."""
        control = self._pipeline.apply(logits, self._slots)
        tokens: list[int] = self._pipeline.sample(control).tokens.tolist()
        self._pipeline.commit(self._slots, [[token] for token in tokens])
        return tokens

    def restore(self) -> None:
        """Take the last step back."""
        for slot in self._slots:
            self._pipeline.rollback(slot, 1)


def timed_step(batch: Batch, logits: Tensor) -> float:
    """Return the seconds of one step; the batch stays where it is."""
    elapsed = seconds(lambda: batch.step(logits))
    batch.restore()
    return elapsed


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(options.threads)
    report = Report("control", options)
    repeats = 1 if options.quick else 5
    control_seconds = 0.0
    for width in (50_257, 151_936):
        vocabulary = Vocabulary.from_tokenizer(models.tokenizer(width))
        plans = [
            compile(Recipe.parse(kind.recipe), vocabulary, context_tokens=2048) for kind in MIXED
        ]
        histories = models.prompts(ROWS, HISTORY, seed=width)
        ours, theirs = Batch(plans, width, histories), PerRequest(histories, width - 1)
        for shape, rows in (("zipf", zipf_rows), ("flat", gaussian_rows)):
            logits = rows(ROWS, width, seed=7)

            def run_ours(logits: Tensor = logits, ours: Batch = ours) -> float:
                return median(timed_step(ours, logits.clone()) for _ in range(repeats))

            def run_theirs(logits: Tensor = logits, theirs: PerRequest = theirs) -> float:
                return seconds(lambda: theirs.step(logits.clone()))

            samples = interleave({"ours": run_ours, "theirs": run_theirs}, options.rounds)
            name = f"{ROWS}x{width}"
            report.detail(f"pipeline_{name}_{shape}_seconds", samples["ours"])
            report.detail(f"processors_{name}_{shape}_seconds", samples["theirs"])
            if shape == "zipf":
                report.figure(f"vs_processors_{name}", ratio(samples, "theirs", "ours"))
                if width == models.VOCABULARY_SIZE:
                    control_seconds = median(samples["ours"])
    step = decode_step_seconds("500m", rows=ROWS, context=128, repeats=2 if options.quick else 10)
    report.detail("step_500m_seconds", [step])
    report.figure("share_of_step_500m", control_seconds / (control_seconds + step))
    report.finish()


if __name__ == "__main__":
    main()
