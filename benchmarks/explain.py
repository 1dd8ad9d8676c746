"""What explanations add to a step, and what comparing four recipes adds to one prefill."""

from collections.abc import Mapping, Sequence
from itertools import count
from statistics import median

import torch
from torch import Tensor

from benchmarks import models
from benchmarks.engines import Collector, Engine, decode_step_seconds, load
from benchmarks.harness import Report, arguments, interleave, ratio, seconds
from benchmarks.processors import MIXED, zipf_rows
from bosal_decoding import Plan, Prompt, Recipe, Vocabulary
from bosal_decoding.compile import compile
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.explaining_pipeline import ExplainingPipeline
from bosal_server.engine.request import EngineRequest

ROWS = 32
HISTORY = 200
PREFIX = 1024
# One prompt, four recipes: what `Compare` is for.
COMPARED: tuple[list[dict[str, object]], ...] = (
    [],
    [{"rule": "temperature", "value": 0.7}, {"rule": "top_p", "p": 0.9}],
    [{"rule": "eos_ramp", "weight": 5, "over": 200}, {"rule": "temperature", "value": 0}],
    [{"rule": "used_token_weight", "weight": -1.5}, {"rule": "temperature", "value": 0.7}],
)


# The rules of Hewitt et al. 2024, drawn warm.
SHIPPED: dict[str, object] = {
    "rules": [
        {"rule": "eos_ramp", "weight": 15, "over": 250},
        {"rule": "logit_bias", "ids": {str(token): -4 for token in range(100, 115)}},
        {"rule": "used_token_weight", "weight": -1.5},
        {"rule": "temperature", "value": 0.7},
        {"rule": "top_p", "p": 0.95},
    ]
}


class Batch:
    """32 choices in the middle of their answers, recipes in turn, explained or not."""

    def __init__(self, plans: list[Plan], *, is_explained: bool) -> None:
        self._slots = list(range(ROWS))
        self._is_explained = is_explained
        self.num_changed = self.num_tokens = 0
        self._pipeline = ExplainingPipeline(models.VOCABULARY_SIZE, ROWS)
        for slot, history in enumerate(models.prompts(ROWS, HISTORY, seed=1)):
            plan = plans[slot % len(plans)]
            self._pipeline.slots.add(slot, plan, history=(), seed=slot, choice=0)
            if is_explained:
                counterfactuals = Counterfactuals.of(plan)
                self._pipeline.explain(slot, counterfactuals, history=(), seed=slot, choice=0)
            self._pipeline.slots.commit([slot], [history])

    def step(self, logits: Tensor) -> None:
        """Control, draw, explain and commit rows [B, V], which are changed."""
        streams = logits.clone() if self._is_explained else logits
        controlled = self._pipeline.apply(self._pipeline.combine(logits, self._slots), self._slots)
        tokens = self._pipeline.sample(controlled).tokens.tolist()
        if self._is_explained:
            found = self._pipeline.explanations(streams, controlled, self._slots, tokens)
            self.num_changed += sum(not one.is_unchanged for one in found)
            self.num_tokens += len(found)
        self._pipeline.slots.commit(self._slots, [[token] for token in tokens])

    def timed(self, logits: Tensor) -> float:
        """Return the seconds of one step; the batch stays where it is."""
        elapsed = seconds(lambda: self.step(logits))
        for slot in self._slots:
            self._pipeline.slots.rollback(slot, 1)
        return elapsed


def overhead(report: Report) -> None:
    """Measure control with and without explanations of all 32 rows, beside the 500m forward."""
    vocabulary = Vocabulary.from_tokenizer(models.tokenizer())
    logits = zipf_rows(ROWS, models.VOCABULARY_SIZE, seed=7)
    repeats = 1 if report.options.quick else 3
    step = decode_step_seconds("500m", rows=ROWS, context=128, repeats=2 * repeats)
    report.detail("step_500m_seconds", [step])
    mixed = [kind.recipe for kind in MIXED]
    # On rows as flat as Zipf's law most draws are changed; text is sharper.
    for name, documents, rows in (
        ("", mixed, logits),
        ("_rules", [SHIPPED], logits),
        ("_sharp", mixed, logits * 2),
        ("_rules_sharp", [SHIPPED], logits * 2),
    ):
        plans = compile_all(vocabulary, documents)
        plain, explained = (Batch(plans, is_explained=on) for on in (False, True))

        def run_off(batch: Batch = plain, rows: Tensor = rows) -> float:
            return run(batch, rows, repeats)

        def run_on(batch: Batch = explained, rows: Tensor = rows) -> float:
            return run(batch, rows, repeats)

        samples = interleave({"off": run_off, "on": run_on}, report.options.rounds)
        pairs = zip(samples["on"], samples["off"], strict=True)
        added = median((on - off) / (step + off) for on, off in pairs)
        report.detail(f"control{name}_seconds", samples["off"])
        report.detail(f"control_explained{name}_seconds", samples["on"])
        report.detail(f"changed_share{name}", [explained.num_changed / explained.num_tokens])
        report.figure(f"explain_overhead{name}", added)


def run(batch: Batch, logits: Tensor, repeats: int) -> float:
    return median(batch.timed(logits.clone()) for _ in range(repeats))


def compile_all(vocabulary: Vocabulary, documents: Sequence[Mapping[str, object]]) -> list[Plan]:
    return [
        compile(Recipe.parse(document), vocabulary, context_tokens=2048) for document in documents
    ]


def comparison(report: Report) -> None:
    """Measure the first tokens of four compared recipes against those of one request."""
    with Engine(load("500m"), runner="torch") as engine:
        documents = [
            {"scaffold": {"kind": "raw"}, **({"rules": rules} if rules else {})}
            for rules in COMPARED
        ]
        plans = compile_all(engine.model.vocabulary, documents)
        held = [Counterfactuals.of(plan) for plan in plans]
        held[0] = held[0].against(held[1:])
        numbers = count()

        def first_tokens(num_recipes: int) -> float:
            number = next(numbers)
            (prompt,) = models.prompts(1, PREFIX, seed=number)
            collector = Collector(num_recipes)

            def ask() -> None:
                for recipe in range(num_recipes):
                    engine.loop.submit(
                        EngineRequest(
                            request_id=f"{number}.{recipe}",
                            model=engine.model.name,
                            plan=plans[recipe],
                            prompts=(
                                Prompt(
                                    text="", token_ids=tuple(prompt), history_ids=(), pin_tokens=0
                                ),
                            ),
                            seed=number,
                            max_tokens=1,
                            explain=held[recipe] if num_recipes > 1 else None,
                        ),
                        collector,
                    )
                if not collector.done.wait(600):
                    raise TimeoutError("the engine did not finish")

            return seconds(ask)

        samples = interleave(
            {"one": lambda: first_tokens(1), "four": lambda: first_tokens(len(COMPARED))},
            report.options.rounds,
        )
        report.detail("prefill_1k_500m_seconds", samples["one"])
        report.detail("compare4_first_tokens_500m_seconds", samples["four"])
        report.figure("compare4_prefill", ratio(samples, "four", "one"))


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(options.threads)
    report = Report("explain", options)
    with torch.inference_mode():
        overhead(report)
    comparison(report)
    report.finish()


if __name__ == "__main__":
    main()
