"""Every method over coupled streams against a naive decoder that batches nothing."""

from typing import Any

import numpy as np
import pytest
import torch

from bosal_server.model import LoadedModel

from .bench import MakeBench
from .coupled_requests import (
    CONTEXT,
    LAST,
    SHORT,
    Texts,
    ids_of,
    plan_of,
    submit,
)
from .naive_streams import Formula, Naive, Row, blended, logp, nucleus, plausible

PLAIN = {"kind": "turns"}
TURNS = "<|user|>\n{}\n<|assistant|>\n"

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
        rule: dict[str, Any] = {"rule": "guidance", "scale": scale}
        if negative is None:
            rule["unconditional"] = "last_token"
        else:
            options["negative_prompt_ids"] = torch.tensor([encode(negative)])
            rule["negative_prompt"] = negative
        theirs = naive.models["base"].generate(
            prompt, do_sample=False, max_new_tokens=16, guidance_scale=scale, **options
        )
        bench = bench_of(loaded)
        answer = submit(bench, plan_of(loaded, rule), SHORT, max_tokens=16)
        bench.run()
        assert answer.tokens() == theirs[0, prompt.shape[1] :].tolist()
