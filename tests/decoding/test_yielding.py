"""Bans, and which rules yield when nothing legal is left."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.decoding.test_pipeline import greedy, one_step, plan_of, rows

from bosal_decoding.pipeline import Pipeline
from bosal_decoding.stopping import BanMatch, StopMatch
from bosal_decoding.vocabulary import Vocabulary
from bosal_decoding.yielding import yielded_rules


def test_a_ban_holds_at_its_position_only(vocabulary: Vocabulary) -> None:
    pipeline = Pipeline(vocabulary.size, 1)
    pipeline.slots.add(0, greedy(vocabulary), history=[], seed=0, choice=0)
    logits = torch.zeros(1, vocabulary.size)
    logits[0, 9], logits[0, 11] = 3, 2
    pipeline.slots.ban(0, 0, 9)
    assert one_step(pipeline, [0], logits)[1] == [11]
    pipeline.slots.commit([0], [[11]])
    assert one_step(pipeline, [0], logits)[1] == [9]
    pipeline.slots.rollback(0, 1)
    assert one_step(pipeline, [0], logits)[1] == [11]
    pipeline.slots.free(0)
    pipeline.slots.add(0, greedy(vocabulary), history=[], seed=0, choice=0)
    assert one_step(pipeline, [0], logits)[1] == [9]


def test_rules_that_leave_nothing_yield_by_name(vocabulary: Vocabulary) -> None:
    pipeline = Pipeline(vocabulary.size, 2)
    plan = greedy(vocabulary, {"rule": "min_tokens", "value": 5})
    for slot in (0, 1):
        pipeline.slots.add(slot, plan, history=[], seed=0, choice=0)
    logits = torch.full((2, vocabulary.size), -torch.inf)
    logits[:, 0] = 0
    logits[1, 9] = 1
    selection = pipeline.sample(pipeline.apply(logits.clone(), [0, 1]))
    assert selection.tokens.tolist() == [0, 9]
    names = [yielded_rules(bits) for bits in selection.yielded.tolist()]
    assert names == [("min_tokens",), ()]
    pipeline.slots.ban(0, 0, 0)
    selection = pipeline.sample(pipeline.apply(logits.clone(), [0, 1]))
    assert selection.tokens.tolist() == [0, 9]
    assert yielded_rules(int(selection.yielded[0])) == ("min_tokens", "banned_strings")


def test_repeats_yield_after_the_length_and_before_the_bans(vocabulary: Vocabulary) -> None:
    plan = greedy(
        vocabulary, {"rule": "min_tokens", "value": 9}, {"rule": "no_repeat_ngram", "n": 2}
    )
    pipeline = Pipeline(vocabulary.size, 2)

    def step(*tokens: int) -> tuple[int, tuple[str, ...]]:
        logits = torch.full((2, vocabulary.size), -torch.inf)
        logits[0, list(tokens)] = torch.arange(len(tokens), 0.0, -1)
        logits[1] = 0
        selection = pipeline.sample(pipeline.apply(logits, [0, 1]))
        return int(selection.tokens[0]), yielded_rules(int(selection.yielded[0]))

    for slot in (0, 1):
        pipeline.slots.add(slot, plan, history=[7, 8], seed=0, choice=0)
    pipeline.slots.commit([0, 1], [[9, 7], [9, 7]])
    assert step(8, 3) == (3, ())
    assert step(8, 0) == (0, ("min_tokens",))
    assert step(8) == (8, ("min_tokens", "no_repeat_ngram"))
    pipeline.slots.ban(0, 2, 3)
    assert step(3, 8, 0) == (0, ("min_tokens",))
    assert step(3, 8) == (8, ("min_tokens", "no_repeat_ngram"))
    pipeline.slots.ban(0, 2, 8)
    assert step(3, 8) == (3, ("min_tokens", "no_repeat_ngram", "banned_strings"))


@given(seed=st.integers(0, 300))
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_banned_strings_never_appear_and_stops_are_cut(vocabulary: Vocabulary, seed: int) -> None:
    # The loop an engine runs for one choice, on random rows that like these letters.
    banned, stops = ["the", "a t", "ee"], ["ha", "tat"]
    document = {
        "rules": [
            {"rule": "banned_strings", "values": banned},
            {"rule": "stop_strings", "values": stops},
        ]
    }
    plan = plan_of(vocabulary, document)
    liked = [t for t, b in enumerate(vocabulary.token_bytes) if b and set(b) <= set(b"athe ")]
    pipeline = Pipeline(vocabulary.size, 1)
    pipeline.slots.add(0, plan, history=[], seed=seed, choice=0)
    watch, shown, rollbacks = plan.text_stop(), b"", 0
    for step in range(60):
        logits = rows(seed + step, 1, vocabulary.size)
        logits[:, liked] += 8
        (token,) = one_step(pipeline, [0], logits)[1]
        pipeline.slots.commit([0], [[token]])
        match = watch.feed(vocabulary.token_bytes[token])
        if isinstance(match, BanMatch):
            begun = pipeline.slots.output(0)[match.position]
            back = len(pipeline.slots.output(0)) - match.position
            pipeline.slots.rollback(0, back)
            watch.rewind(back)
            pipeline.slots.ban(0, match.position, begun)
            rollbacks += 1
        shown += watch.take()
        if isinstance(match, StopMatch):
            break
    shown += watch.flush()
    assert shown == watch.text
    spelled = vocabulary.bytes_of(pipeline.slots.output(0))
    assert spelled.startswith(shown)
    assert not any(word.encode() in shown for word in banned + stops)
