"""Coupled streams in the engine against a naive decoder: one forward a stream, nothing batched."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.scaffolds import Message
from bosal_decoding.streams import StreamModel
from bosal_server.errors import RequestCancelled
from bosal_server.model import LoadedModel, load_model

from .conftest import GREEDY, Answer, Bench, MakeBench, MakeModel

Row = NDArray[np.float64]
CONTEXT = "The dog ran after the ball.\n\nWhat is the capital"
SHORT = "Q: one two three"


@pytest.fixture(scope="module")
def folders(tiny_llama_folder: Path, save: Any, tmp_path_factory: Any) -> dict[str, Path]:
    """Three models over one tokenizer; the heads of two are padded, differently."""
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    small = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, **shape}
    medium = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96, **shape}
    return {
        "base": tiny_llama_folder,
        "amateur": save(tmp_path_factory.mktemp("amateur"), "llama", vocab_size=448, **small),
        "expert": save(tmp_path_factory.mktemp("expert"), "llama", vocab_size=411, **medium),
    }


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, LoadedModel]:
    return {name: load_model(name, str(path), dtype="float32") for name, path in folders.items()}


@pytest.fixture(scope="module")
def naive(folders: dict[str, Path]) -> "Naive":
    load: Any = AutoModelForCausalLM
    return Naive({name: load.from_pretrained(path) for name, path in folders.items()})


class Naive:
    """Decodes greedily, each stream by a forward pass over all of its text."""

    def __init__(self, models: Mapping[str, Any]) -> None:
        self.models = models

    @torch.inference_mode()
    def row(self, model: str, ids: Sequence[int], size: int) -> Row:
        logits = self.models[model](torch.tensor([list(ids)])).logits[0, -1, :size]
        return np.asarray(logits.double().numpy())

    def decode(
        self,
        prompts: Sequence[tuple[str, Sequence[int]]],
        formula: Callable[[list[Row], int], Row],
        *,
        size: int,
        max_tokens: int,
    ) -> list[int]:
        output: list[int] = []
        while len(output) < max_tokens:
            rows = [self.row(model, [*ids, *output], size) for model, ids in prompts]
            output.append(int(formula(rows, len(output)).argmax()))
            if output[-1] == 0:
                break
        return output


def logp(row: Row) -> Row:
    top = row.max()
    return np.asarray(row - top - np.log(np.exp(row - top).sum()))


def plausible(z: Row, base: Row, alpha: float) -> Row:
    p = np.exp(logp(base))
    return np.where(p >= alpha * p.max(), z, -np.inf)


def nucleus(z: Row, base: Row, mass: float) -> Row:
    p = np.exp(logp(base))
    order = np.argsort(-p, kind="stable")
    keep = order[: int((p[order].cumsum() < mass).sum()) + 1]
    kept = np.full_like(z, -np.inf)
    kept[keep] = z[keep]
    return kept


def blended(rows: list[Row], below: float) -> Row:
    p, q = (np.exp(logp(row)) for row in rows)
    if p.max() >= below:
        return p
    share = min(q.max() / (q.max() + p.max()) + 0.1 * p[q.argmax()], 1)
    return np.asarray((1 - share) * p + share * q)


Formula = Callable[[list[Row], int], Row]
Texts = Sequence[tuple[str, str]]
PLAIN = {"kind": "turns"}
TURNS = "<|user|>\n{}\n<|assistant|>\n"
LAST = "\0last"

# Name, rule, instruction, each stream's model and prompt, formula of their rows and the position.
CASES: list[tuple[str, dict[str, Any], str, Texts, Formula]] = [
    ("single", {}, SHORT, [("base", SHORT)], lambda r, _: r[0]),
    (
        "guidance",
        {"rule": "guidance", "scale": 1.7},
        SHORT,
        [("base", SHORT), ("base", LAST)],
        lambda r, _: logp(r[1]) + 1.7 * (logp(r[0]) - logp(r[1])),
    ),
    (
        "negative",
        {"rule": "guidance", "scale": 3, "negative": "seven eight nine"},
        SHORT,
        [("base", SHORT), ("base", "seven eight nine")],
        lambda r, _: logp(r[1]) + 3 * (logp(r[0]) - logp(r[1])),
    ),
    (
        "schedule",
        {"rule": "guidance", "scale": 4, "final_scale": -1, "over": 8, "plausibility": 0.01},
        SHORT,
        [("base", SHORT), ("base", LAST)],
        lambda r, t: plausible(
            logp(r[1]) + (4 - 5 * min(t, 8) / 8) * (logp(r[0]) - logp(r[1])), r[0], 0.01
        ),
    ),
    (
        "context_aware",
        {"rule": "context_aware", "alpha": 1},
        CONTEXT,
        [("base", CONTEXT), ("base", "What is the capital")],
        lambda r, _: 2 * r[0] - r[1],
    ),
    (
        "contrastive",
        {"rule": "contrastive", "amateur": "amateur"},
        SHORT,
        [("base", SHORT), ("amateur", SHORT)],
        lambda r, _: plausible(logp(r[0]) - logp(r[1] / 0.5), r[0], 0.1),
    ),
    (
        "extrapolation",
        {
            "rule": "contrastive",
            "form": "extrapolation",
            "beta": 0.5,
            "amateur_temperature": 1,
            "amateur_prompt": "two two two",
        },
        SHORT,
        [("base", SHORT), ("base", "two two two")],
        lambda r, _: plausible(1.5 * logp(r[0]) - 0.5 * logp(r[1]), r[0], 0.1),
    ),
    (
        "proxy_tuning",
        {
            "rule": "proxy_tuning",
            "expert": "expert",
            "anti_expert": "amateur",
            "expert_scaffold": PLAIN,
        },
        SHORT,
        [("base", SHORT), ("expert", TURNS.format(SHORT)), ("amateur", SHORT)],
        lambda r, _: r[0] + r[1] - r[2],
    ),
    (
        "experts",
        {"rule": "expert_antiexpert", "expert": "expert", "anti_expert": "amateur"},
        SHORT,
        [("base", SHORT), ("expert", SHORT), ("amateur", SHORT)],
        lambda r, _: nucleus(r[0] + 2 * (r[1] - r[2]), r[0], 0.9),
    ),
    (
        "anti_expert",
        {"rule": "expert_antiexpert", "anti_expert": "amateur", "prefilter": 0.5},
        SHORT,
        [("base", SHORT), ("amateur", SHORT)],
        lambda r, _: nucleus(r[0] + 2 * (r[0] - r[1]), r[0], 0.5),
    ),
    (
        "realign",
        {"rule": "realign", "aligned": "expert", "weight": 1.5},
        SHORT,
        [("base", SHORT), ("expert", SHORT)],
        lambda r, _: -0.5 * r[0] + 1.5 * r[1],
    ),
    (
        "blend",
        {"rule": "blend", "guide": "expert", "when": {"top1_below": 0.03}},
        SHORT,
        [("base", SHORT), ("expert", SHORT)],
        lambda r, _: blended(r, 0.03),
    ),
]
NAMES = [case[0] for case in CASES]


def models_of(loaded: Mapping[str, LoadedModel]) -> tuple[StreamModel, ...]:
    return tuple(
        StreamModel(name=name, vocabulary=model.vocabulary, context_tokens=model.context_tokens)
        for name, model in loaded.items()
    )


def plan_of(loaded: Mapping[str, LoadedModel], *rules: Mapping[str, Any]) -> Plan:
    base = loaded["base"]
    document = {"scaffold": {"kind": "raw"}, "rules": [*rules, *GREEDY]}
    return compile_recipe(
        Recipe.parse(document),
        base.vocabulary,
        context_tokens=base.context_tokens,
        models=models_of(loaded),
    )


@pytest.fixture
def bench_of(engine_model: MakeModel) -> MakeBench:
    def make(loaded: Mapping[str, LoadedModel], **limits: Any) -> Bench:
        return Bench({name: engine_model(model) for name, model in loaded.items()}, **limits)

    return make


def submit(bench: Bench, plan: Plan, text: str, **options: Any) -> Answer:
    prompts = plan.prompts([Message(role="user", text=text)])
    return bench.submit(plan, (), prompts=prompts, **options)


def ids_of(loaded: Mapping[str, LoadedModel], texts: Texts) -> list[tuple[str, list[int]]]:
    encode = loaded["base"].vocabulary.encode
    own = encode(texts[0][1])
    return [(model, own[-1:] if text == LAST else encode(text)) for model, text in texts]


@pytest.fixture(scope="module")
def expected(naive: Naive, loaded: dict[str, LoadedModel]) -> dict[str, list[int]]:
    size = loaded["base"].vocabulary.size
    return {
        name: naive.decode(ids_of(loaded, texts), formula, size=size, max_tokens=14)
        for name, _, _, texts, formula in CASES
    }


@pytest.mark.parametrize("max_batch_tokens", [9, 512])
def test_every_method_in_one_batch_equals_the_naive_decoder(
    max_batch_tokens: int,
    loaded: dict[str, LoadedModel],
    expected: dict[str, list[int]],
    bench_of: MakeBench,
) -> None:
    """Requests of one, two and three streams, arriving while others decode."""
    bench = bench_of(loaded, max_groups=len(CASES), max_batch_tokens=max_batch_tokens)
    answers = {}
    for name, rule, text, _, _ in CASES:
        plan = plan_of(loaded, *([rule] if rule else []))
        answers[name] = submit(bench, plan, text, max_tokens=14)
        bench.step()
    bench.run()
    assert {name: answer.tokens() for name, answer in answers.items()} == expected
    # The methods do something: no two of them agree by chance with the base alone.
    assert sum(tokens == expected["single"] for tokens in expected.values()) <= 2
    assert bench.held_blocks == 0


@pytest.mark.parametrize("limit", ["scope", "when"])
def test_every_method_leaves_the_base_alone_where_it_does_not_act(
    limit: str, naive: Naive, loaded: dict[str, LoadedModel], bench_of: MakeBench
) -> None:
    size = loaded["base"].vocabulary.size
    limits = {"scope": {"after": 2, "first": 6}, "when": {"top1_below": 0.03}}
    cases = [case for case in CASES if case[1] and "when" not in case[1]]
    bench = bench_of(loaded, max_groups=len(cases))
    answers, wanted = {}, {}
    met: set[bool] = set()
    for name, rule, text, texts, formula in cases:

        def limited(rows: list[Row], position: int, formula: Formula = formula) -> Row:
            is_unsure = np.exp(logp(rows[0])).max() < 0.03
            acts = 2 <= position < 6 if limit == "scope" else is_unsure
            met.add(bool(acts))
            return formula(rows, position) if acts else rows[0]

        ids = ids_of(loaded, texts)
        wanted[name] = naive.decode(ids, limited, size=size, max_tokens=9)
        plan = plan_of(loaded, {**rule, limit: limits[limit]})
        answers[name] = submit(bench, plan, text, max_tokens=9)
    bench.run()
    assert {name: answer.tokens() for name, answer in answers.items()} == wanted
    assert met == {True, False}


def test_guidance_is_that_of_transformers(
    naive: Naive, loaded: dict[str, LoadedModel], bench_of: MakeBench
) -> None:
    """By default with the prompt's last token, else with negative_prompt_ids."""
    encode = loaded["base"].vocabulary.encode
    prompt = torch.tensor([encode(SHORT)])
    for scale, negative in ((1.5, None), (0.3, "nine ten eleven"), (2.5, "The moon.")):
        options: dict[str, Any] = {}
        rule: dict[str, Any] = {"rule": "guidance", "scale": scale, "unconditional": "last_token"}
        if negative is not None:
            options["negative_prompt_ids"] = torch.tensor([encode(negative)])
            rule["negative_prompt"] = negative
        theirs = naive.models["base"].generate(
            prompt, do_sample=False, max_new_tokens=16, guidance_scale=scale, **options
        )
        bench = bench_of(loaded)
        answer = submit(bench, plan_of(loaded, rule), SHORT, max_tokens=16)
        bench.run()
        assert answer.tokens() == theirs[0, prompt.shape[1] :].tolist()


def test_rules_act_on_the_combined_row_and_raw_is_the_base(
    naive: Naive, loaded: dict[str, LoadedModel], bench_of: MakeBench
) -> None:
    rule = {"rule": "guidance", "scale": 1.7}
    bench = bench_of(loaded)
    plan = plan_of(loaded, rule, {"rule": "logit_bias", "ids": {"40": 3.0}})
    answer = submit(bench, plan, SHORT, max_tokens=6, logprobs=3)
    bench.run()
    size = loaded["base"].vocabulary.size
    (_, base), (_, last) = ids_of(loaded, [("base", SHORT), ("base", LAST)])
    event_logprobs = [e.logprobs for e in answer.events[:-1]]  # type: ignore[union-attr]
    position = 0
    for one in event_logprobs:
        assert one is not None
        for raw, rank, controlled, top in zip(
            one.raw, one.raw_rank, one.controlled, one.top_raw, strict=True
        ):
            output = answer.tokens()[:position]
            rows = [logp(naive.row("base", [*ids, *output], size)) for ids in (base, last)]
            z = rows[1] + 1.7 * (rows[0] - rows[1])
            z[40] += 3
            token = answer.tokens()[position]
            assert token == z.argmax()
            assert raw == pytest.approx(rows[0][token], abs=1e-4)
            assert rank == 1 + (rows[0] > rows[0][token]).sum()
            assert controlled == pytest.approx(logp(z)[token], abs=1e-4)
            assert top.token_ids == list(np.argsort(-rows[0], kind="stable")[:3])
            position += 1
    assert position == len(answer.tokens())


def test_implausible_tokens_come_back_where_nothing_else_is_legal(
    loaded: dict[str, LoadedModel], bench_of: MakeBench
) -> None:
    """Before any rule yields."""
    single = bench_of(loaded)
    likely = submit(single, plan_of(loaded), SHORT, max_tokens=1)
    single.run()
    spelled = loaded["base"].vocabulary.token_bytes[likely.tokens()[0]].decode()
    bench = bench_of(loaded)
    rules = (
        {"rule": "guidance", "scale": 2, "plausibility": 1.0},
        {"rule": "banned_strings", "values": [spelled]},
    )
    answer = submit(bench, plan_of(loaded, *rules), SHORT, max_tokens=1)
    bench.run()
    assert answer.tokens()
    assert spelled not in answer.text()
    assert answer.finished.endings[0].yielded_rules == ("plausibility",)


def test_usage_counts_the_forwards_of_every_stream(
    loaded: dict[str, LoadedModel], bench_of: MakeBench
) -> None:
    bench = bench_of(loaded)
    rule = {"rule": "proxy_tuning", "expert": "expert", "anti_expert": "amateur"}
    answer = submit(bench, plan_of(loaded, rule), SHORT, max_tokens=5, num_choices=2)
    bench.run()
    usage = answer.finished.usage
    assert [(one.role, one.model) for one in usage.streams] == [
        ("base", "base"),
        ("expert", "expert"),
        ("anti_expert", "amateur"),
    ]
    prompt = len(loaded["base"].vocabulary.encode(SHORT))
    tokens = [len(answer.tokens(choice)) for choice in range(2)]
    for one in usage.streams:
        assert one.prompt_tokens == prompt
        assert one.forwards == sum(prompt + count - 1 for count in tokens)
    assert [e.interventions for e in answer.finished.endings] == tokens


def test_interventions_are_the_tokens_where_the_gate_was_open(
    naive: Naive, loaded: dict[str, LoadedModel], bench_of: MakeBench
) -> None:
    bench = bench_of(loaded)
    rule = {"rule": "blend", "guide": "expert", "when": {"top1_below": 0.03}}
    answer = submit(bench, plan_of(loaded, rule), SHORT, max_tokens=14)
    bench.run()
    ids, size = loaded["base"].vocabulary.encode(SHORT), loaded["base"].vocabulary.size
    tokens = answer.tokens()
    unsure = [
        np.exp(logp(naive.row("base", [*ids, *tokens[:i]], size)).max()) < 0.03
        for i in range(len(tokens))
    ]
    assert 0 < sum(unsure) < len(tokens)
    assert answer.finished.endings[0].interventions == sum(unsure)


def test_a_shared_scaffold_is_computed_once_for_both_streams(
    loaded: dict[str, LoadedModel], bench_of: MakeBench
) -> None:
    scaffold = {
        "kind": "in_context",
        "preamble": "The cat sat on the mat and looked at the moon. " * 8,
    }
    base = loaded["base"]
    document = {"scaffold": scaffold, "rules": [{"rule": "guidance"}, *GREEDY]}
    plan = compile_recipe(
        Recipe.parse(document), base.vocabulary, context_tokens=base.context_tokens
    )
    bench = bench_of(loaded, max_batch_tokens=64)
    answer = submit(bench, plan, "one two", max_tokens=2)
    bench.run()
    prompts = plan.prompts([Message(role="user", text="one two")])
    shared = plan.streams[1].pinned_ids
    assert len(shared) > 96
    block = bench.models["base"].runner.block_size
    usage = answer.finished.usage
    assert usage.prompt_tokens == sum(len(prompt.token_ids) for prompt in prompts)
    assert usage.cached_prompt_tokens >= len(shared) // block * block


@pytest.mark.parametrize("steps", [0, 1, 3, 9])
def test_a_group_cancelled_in_any_phase_leaves_nothing(
    steps: int, loaded: dict[str, LoadedModel], bench_of: MakeBench
) -> None:
    """Waiting, while one stream is prefilled and the other parked, while decoding."""
    bench = bench_of(loaded, max_batch_tokens=8, max_groups=2)
    rule = {"rule": "proxy_tuning", "expert": "expert", "anti_expert": "amateur"}
    plan = plan_of(loaded, rule)
    stays = submit(bench, plan, SHORT, max_tokens=10)
    goes = submit(bench, plan, CONTEXT + " of France?", max_tokens=30, num_choices=3)
    for _ in range(steps):
        bench.step()
    bench.cancel(goes)
    assert isinstance(goes.error, RequestCancelled)
    bench.run()
    alone = bench_of(loaded)
    same = submit(alone, plan, SHORT, max_tokens=10)
    alone.run()
    assert stays.tokens() == same.tokens()
    assert bench.held_blocks == 0


def test_explanations_hold_every_rule_against_the_combined_row(
    naive: Naive, loaded: dict[str, LoadedModel], bench_of: MakeBench
) -> None:
    """The combining rule against the base's row; the stream that moved the token is named."""
    rules = (
        {"rule": "proxy_tuning", "expert": "expert", "anti_expert": "amateur", "alpha": 2},
        {"rule": "logit_bias", "ids": {"40": 4.0}},
    )
    plan = plan_of(loaded, *rules)
    bench = bench_of(loaded)
    answer = submit(
        bench, plan, SHORT, max_tokens=8, explain=Counterfactuals.of(plan, models_of(loaded))
    )
    bench.run()
    size = loaded["base"].vocabulary.size
    ids = loaded["base"].vocabulary.encode(SHORT)
    explained = [one for event in answer.events[:-1] for one in event.explanations]  # type: ignore[union-attr]
    tokens = answer.tokens()
    assert len(explained) == len(tokens)
    streams = set()
    for position, one in enumerate(explained):
        text = [*ids, *tokens[:position]]
        base, expert, amateur = (
            naive.row(model, text, size) for model in ("base", "expert", "amateur")
        )
        assert one is not None
        # Without any rule, not even the temperature.
        token, other = tokens[position], one.uncontrolled_token
        assert one.raw_logprob == pytest.approx(logp(base)[token], abs=1e-4)
        moved = 2 * (expert - amateur)
        effects = {effect.rule: effect for effect in one.effects}
        proxy = effects["proxy_tuning"]
        assert proxy.on_chosen == pytest.approx(moved[token], abs=1e-3)
        assert proxy.on_uncontrolled == pytest.approx(moved[other], abs=1e-3)
        if token != other:
            shaped = base.copy()
            shaped[40] += 4
            assert proxy.token_without == shaped.argmax()
            gains = {
                "expert": expert[token] - expert[other],
                "anti_expert": amateur[other] - amateur[token],
            }
            assert proxy.stream == max(gains, key=lambda role: gains[role])
            streams.add(proxy.stream)
            assert (
                "logit_bias" not in effects
                or effects["logit_bias"].token_without == (base + moved).argmax()
            )
        if token == 40:
            assert effects["logit_bias"].on_chosen == pytest.approx(4, abs=1e-3)
    assert streams
