"""What a drawn token does to the text: stop strings, banned strings, log-probabilities."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bosal_decoding.plan import Plan
from bosal_server.engine.request import (
    FinishReason,
    TokensEvent,
)
from bosal_server.model import LoadedModel

from .bench import Bench, alone, make_prompts

MakeBench = Callable[..., Bench]
MakePlan = Callable[..., Plan]


def test_text_is_the_decoding_of_all_bytes(
    make_bench: MakeBench, make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    plan = make_plan(greedy=False)
    bench = make_bench()
    answers = [bench.submit(plan, [5], seed=seed, max_tokens=60) for seed in range(8)]
    bench.run()
    data = [tiny_llama.vocabulary.bytes_of(answer.tokens()) for answer in answers]
    assert any("\ufffd" in answer.text() for answer in answers)
    assert [answer.text() for answer in answers] == [one.decode(errors="replace") for one in data]


def test_a_stop_string_over_several_tokens_cuts_the_text(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    (prompt,) = make_prompts(8, (11,))
    free = alone(make_bench, make_plan(), prompt, max_tokens=40)
    text = free.text()
    begin = next(i for i in range(12, len(text)) if "\ufffd" not in text[i : i + 5])
    stop = text[begin : begin + 5]
    answer = alone(
        make_bench, make_plan({"rule": "stop_strings", "values": [stop]}), prompt, max_tokens=40
    )
    assert answer.text() == text[: text.index(stop)]
    (ending,) = answer.finished.endings
    assert ending.reason is FinishReason.STOP_STRING
    assert ending.matched_stop == stop
    assert answer.tokens() == free.tokens()[: ending.output_tokens]
    assert any(
        len(event.token_ids) > 1 for event in answer.events if isinstance(event, TokensEvent)
    )


def reference_with_bans(
    loaded: LoadedModel, prompt: list[int], banned: list[bytes], max_tokens: int
) -> list[int]:
    """Decode greedily, the whole text anew for every token, going back when it spells a ban."""
    model: Any = copy.deepcopy(loaded.model)
    model.set_attn_implementation("eager")
    spell = loaded.vocabulary.token_bytes
    output: list[int] = []
    illegal: dict[int, set[int]] = {}
    while len(output) < max_tokens:
        logits = model(input_ids=torch.tensor([prompt + output])).logits[0, -1]
        for token in illegal.get(len(output), ()):
            logits[token] = -torch.inf
        output.append(int(logits.argmax()))
        if output[-1] in loaded.eos_ids:
            break
        text = b"".join(spell[token] for token in output)
        found = [(text.find(one) + len(one), text.find(one)) for one in banned if one in text]
        if found:
            _, start = min(found)
            position = 0
            while len(b"".join(spell[token] for token in output[: position + 1])) <= start:
                position += 1
            illegal = {place: tokens for place, tokens in illegal.items() if place <= position}
            illegal.setdefault(position, set()).add(output[position])
            del output[position:]
    return output


def test_banned_strings_equal_a_naive_loop(
    make_bench: MakeBench, make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    num_rollbacks = 0
    for prompt in make_prompts(9, (6, 33, 20, 9)):
        free = alone(make_bench, make_plan(), prompt, max_tokens=30).text()
        banned = [
            part
            for size, begin in ((1, 3), (3, 5), (2, 12), (4, 16))
            if "\ufffd" not in (part := free[begin : begin + size]) and part
        ]
        plan = make_plan({"rule": "banned_strings", "values": banned})
        answer = alone(make_bench, plan, prompt, max_tokens=30)
        with torch.inference_mode():
            expected = reference_with_bans(
                tiny_llama, prompt, [part.encode() for part in banned], 30
            )
        assert answer.tokens() == expected
        assert not any(part in answer.text() for part in banned)
        num_rollbacks += answer.text() != free
    assert num_rollbacks == 4


def test_logprobs_are_those_of_the_models_row(
    make_bench: MakeBench, make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    (prompt,) = make_prompts(10, (20,))
    answer = alone(
        make_bench, make_plan({"rule": "logit_bias", "ids": {3: -50.0}}), prompt, logprobs=4
    )
    model: Any = copy.deepcopy(tiny_llama.model)
    model.set_attn_implementation("eager")
    tokens = answer.tokens()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    expected = logits.double().log_softmax(-1)
    events = [event for event in answer.events if isinstance(event, TokensEvent)]
    position = 0
    for event in events:
        assert event.logprobs is not None
        for i, token in enumerate(event.token_ids):
            row = expected[position]
            assert event.logprobs.raw[i] == pytest.approx(float(row[token]), abs=1e-4)
            assert event.logprobs.raw_rank[i] == 1 + int((row > row[token]).sum())
            assert event.logprobs.controlled_rank[i] == 1
            assert event.logprobs.top_raw[i].token_ids == row.topk(4).indices.tolist()
            assert len(event.logprobs.top_controlled[i].logprobs) == 4
            position += 1
    assert position == len(tokens) == 12
