"""The pipeline with a mixed batch of recipes against transformers' processors, row by row."""

from collections.abc import Callable
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
LONG_HISTORY = 8192


class Batch:
    """32 slots in the middle of their answers, recipes in turn."""

    def __init__(
        self,
        plans: list[Plan],
        width: int,
        histories: list[list[int]],
        instructions: list[list[int]] | None = None,
    ) -> None:
        self._slots = list(range(len(histories)))

        self._pipeline = Pipeline(width, len(histories))
        read = instructions or [[] for _ in histories]
        for slot, history in enumerate(histories):
            plan = plans[slot % len(plans)]
            self._pipeline.slots.add(
                slot, plan, history=read[slot], seed=slot, choice=0, logprobs=-1
            )
            self._pipeline.slots.commit([slot], [history])

    def step(self, logits: Tensor) -> list[int]:
        """Return one token per row of [B, V] and commit them."""
        control = self._pipeline.apply(logits, self._slots)
        tokens: list[int] = self._pipeline.sample(control).tokens.tolist()
        self._pipeline.slots.commit(self._slots, [[token] for token in tokens])
        return tokens

    def restore(self) -> None:
        """Take the last step back."""
        for slot in self._slots:
            self._pipeline.slots.rollback(slot, 1)


def timed_step(batch: Batch, logits: Tensor) -> float:
    """Return the seconds of one step; the batch stays where it is."""
    elapsed = seconds(lambda: batch.step(logits))
    batch.restore()
    return elapsed


def history_seconds(vocabulary: Vocabulary, rounds: int, repeats: int) -> dict[str, list[float]]:
    """Return a step's seconds with rules that look back at 8k tokens, and without them."""
    back = [{"rule": "dry", "multiplier": 0.8}, {"rule": "no_repeat_ngram", "n": 3}]
    zipf = torch.softmax(zipf_rows(1, vocabulary.size, seed=3)[0], 0)
    generator = torch.Generator().manual_seed(4)
    said = torch.multinomial(zipf, ROWS * LONG_HISTORY, replacement=True, generator=generator)
    histories = said.view(ROWS, LONG_HISTORY).tolist()
    logits = zipf_rows(ROWS, vocabulary.size, seed=7)

    def runner(rules: list[dict[str, object]]) -> Callable[[], float]:
        recipe = Recipe.parse({"rules": [*rules, {"rule": "temperature", "value": 0.7}]})
        plan = compile(recipe, vocabulary, context_tokens=2 * LONG_HISTORY)
        batch = Batch([plan], vocabulary.size, [[] for _ in histories], instructions=histories)

        def run() -> float:
            return median(seconds(lambda: batch.step(logits.clone())) for _ in range(repeats))

        return run

    return interleave({"with": runner(back), "without": runner([])}, rounds)


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
    vocabulary = Vocabulary.from_tokenizer(models.tokenizer(models.VOCABULARY_SIZE))
    samples = history_seconds(vocabulary, options.rounds, repeats)
    report.detail("history_8k_with_seconds", samples["with"])
    report.detail("history_8k_without_seconds", samples["without"])
    gaps = [a - b for a, b in zip(samples["with"], samples["without"], strict=True)]
    report.figure("history_rule_ms", 1000 * median(gaps))
    step = decode_step_seconds("500m", rows=ROWS, context=128, repeats=2 if options.quick else 10)
    report.detail("step_500m_seconds", [step])
    report.figure("share_of_step_500m", control_seconds / (control_seconds + step))
    report.finish()


if __name__ == "__main__":
    main()
