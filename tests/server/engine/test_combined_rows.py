"""What acts on the row that coupled streams became: rules, log-probabilities, explanations."""

import numpy as np
import pytest

from bosal_decoding.counterfactuals import Counterfactuals
from bosal_server.model import LoadedModel

from .bench import MakeBench
from .coupled_requests import (
    LAST,
    SHORT,
    ids_of,
    models_of,
    plan_of,
    submit,
)
from .naive_streams import Naive, logp


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
