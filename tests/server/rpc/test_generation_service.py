"""Generation over a real wire: events, choices, seeds, stops, log-probabilities, tokens."""

import math
from itertools import pairwise

import grpc
import pytest
from tests.live_server import LiveServer

from bosal.v1 import generation_pb2 as pb
from bosal.v1 import generation_pb2_grpc
from bosal_client import Client, Generation, GenerationOptions, TokenBatch, assistant, user

WORDS = "The cat sat on the mat"
GREEDY = [{"rule": "temperature", "value": 0}]


def tokens(generation: Generation) -> list[tuple[int, ...]]:
    return [choice.token_ids for choice in generation.choices]


def test_a_stream_is_started_then_tokens_then_finished(server: LiveServer) -> None:
    spec = pb.GenerationSpec(instruction=WORDS, max_tokens=12, num_choices=2, request_id="mine")
    with grpc.insecure_channel(server.address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        events = list(stub.GenerateStream(pb.GenerateStreamRequest(spec=spec)))

    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert set(kinds[1:-1]) == {"tokens"}
    assert events[0].started.request_id == "mine"
    for choice in range(2):
        position = 0
        for event in events[1:-1]:
            if event.tokens.choice == choice:
                assert event.tokens.first_position == position
                position += len(event.tokens.token_ids)
        assert position == events[-1].finished.endings[choice].output_tokens


def test_started_says_what_replays_the_request(client: Client) -> None:
    (model,) = client.models()
    info = client.server_info()
    generation = client.generate(WORDS, recipe="rules", max_tokens=4)
    started = generation.started
    assert started.model == "tiny"
    assert started.model_digest == model.digest
    assert (started.runner, started.dtype, started.device) == ("torch", "float32", "cpu")
    assert started.recipe_name == "rules"
    assert started.recipe_version == client.recipe("rules").version
    assert started.versions == info.versions
    assert {"bosal", "torch", "transformers"} <= started.versions.keys()

    again = client.generate(
        WORDS,
        recipe=started.recipe,
        seed=started.seed,
        max_tokens=started.max_tokens,
        num_choices=started.num_choices,
    )
    assert tokens(again) == tokens(generation)
    assert again.started.recipe_name == "inline"
    assert again.started.recipe_version == started.recipe_version


def test_unary_and_stream_give_the_same(client: Client) -> None:
    options = GenerationOptions(max_tokens=24, seed=5, num_choices=3, logprobs=2)
    whole = client.generate(WORDS, **options)
    with client.stream(WORDS, **options) as stream:
        streamed = stream.result()
    assert streamed.choices == whole.choices
    assert streamed.usage.output_tokens == whole.usage.output_tokens


def test_choices_differ_and_each_is_repeatable(client: Client) -> None:
    first = client.generate(WORDS, num_choices=4, seed=11, max_tokens=16)
    second = client.generate(WORDS, num_choices=4, seed=11, max_tokens=16)
    assert len(set(tokens(first))) == 4
    assert tokens(first) == tokens(second)
    # A choice's tokens do not depend on how many others were asked for.
    alone = client.generate(WORDS, seed=11, max_tokens=16)
    assert tokens(alone)[0] == tokens(first)[0]


def test_seeds_differ_and_one_is_drawn_if_unset(client: Client) -> None:
    drawn = client.generate(WORDS, max_tokens=16)
    repeated = client.generate(WORDS, max_tokens=16, seed=drawn.started.seed)
    other = client.generate(WORDS, max_tokens=16, seed=drawn.started.seed + 1)
    assert tokens(repeated) == tokens(drawn)
    assert tokens(other) != tokens(drawn)
    negative = client.generate(WORDS, max_tokens=16, seed=-(2**63))
    assert negative.started.seed == -(2**63)


def test_text_is_what_the_tokens_spell(client: Client) -> None:
    generation = client.generate(WORDS, max_tokens=40, seed=1, logprobs=0)
    (choice,) = generation.choices
    assert choice.logprobs is not None
    spelled = b"".join(choice.logprobs.token_bytes).decode(errors="replace")
    assert choice.text == spelled


def test_batches_hold_whole_characters(client: Client) -> None:
    with client.stream(WORDS, max_tokens=60, seed=2) as stream:
        batches = list(stream)
        whole = stream.result().text
    assert "".join(batch.text for batch in batches) == whole
    for before, after in pairwise(batches):
        assert after.first_position == before.first_position + len(before.token_ids)


def test_a_stop_string_is_cut_and_named(client: Client) -> None:
    free = client.generate(WORDS, max_tokens=40, overrides=GREEDY).choices[0]
    # Inside the text and two characters long, so that it often crosses a token's border.
    stop = free.text[5:7]
    stopped = client.generate(
        WORDS, max_tokens=40, overrides=[*GREEDY, {"rule": "stop_strings", "values": [stop]}]
    ).choices[0]
    assert stopped.finish_reason == "stop_string"
    assert stopped.matched_stop == stop
    assert stopped.text == free.text[: free.text.index(stop)]
    assert free.token_ids[: len(stopped.token_ids)] == stopped.token_ids


def test_max_tokens_ends_a_choice(client: Client) -> None:
    bias = {"rule": "logit_bias", "ids": {"0": -1000}}
    generation = client.generate(WORDS, max_tokens=7, overrides=[bias])
    (choice,) = generation.choices
    assert (choice.finish_reason, len(choice.token_ids)) == ("max_tokens", 7)
    assert generation.usage.output_tokens == 7


def test_the_end_token_ends_a_choice(client: Client) -> None:
    bias = {"rule": "logit_bias", "ids": {"0": 1000}}
    (choice,) = client.generate(WORDS, overrides=[bias]).choices
    assert choice.finish_reason == "stop_token"
    assert choice.text == ""


def test_unset_max_tokens_is_cut_to_the_room(client: Client) -> None:
    (prompt,) = client.tokenize(prompt="word " * 60)
    room = 512 - len(prompt.token_ids)
    assert room < 256
    generation = client.generate("word " * 60, seed=1)
    assert generation.started.max_tokens == room
    assert generation.started.prompt_tokens == (len(prompt.token_ids),)


def test_overrides_change_the_version_but_not_the_name(client: Client) -> None:
    started = client.generate(WORDS, recipe="plain", overrides=GREEDY, max_tokens=2).started
    assert started.recipe_name == "plain"
    assert started.recipe_version != client.recipe("plain").version
    assert started.recipe["rules"] == GREEDY


def test_logprobs_show_the_draw_before_and_after_control(client: Client) -> None:
    bias = {"rule": "logit_bias", "ids": {"50": 1000}}
    generation = client.generate(WORDS, max_tokens=3, logprobs=3, overrides=[*GREEDY, bias])
    logprobs = generation.choices[0].logprobs
    assert logprobs is not None
    assert generation.choices[0].token_ids == (50, 50, 50)
    for position in range(3):
        top_raw, top = logprobs.top_raw[position], logprobs.top_controlled[position]
        assert len(top_raw.token_ids) == len(top.token_ids) == 3
        assert list(top_raw.logprobs) == sorted(top_raw.logprobs, reverse=True)
        assert top.token_ids[0] == 50
        assert logprobs.controlled[position] == pytest.approx(0, abs=1e-5)
        assert logprobs.controlled_rank[position] == 1
        assert logprobs.raw[position] < 0
        assert sum(math.exp(value) for value in top_raw.logprobs) <= 1 + 1e-5
        if logprobs.raw_rank[position] <= 3:
            assert top_raw.token_ids[logprobs.raw_rank[position] - 1] == 50


def test_without_asking_there_are_no_logprobs(client: Client) -> None:
    with client.stream(WORDS, max_tokens=3) as stream:
        batches: list[TokenBatch] = list(stream)
    assert all(batch.logprobs is None for batch in batches)


def test_a_conversation_is_rendered_by_the_scaffold(client: Client) -> None:
    turns = [user("Hi"), assistant("Hello."), user("Who are you?")]
    (prompt,) = client.tokenize(prompt=turns, recipe={"scaffold": {"kind": "turns"}})
    assert prompt.text == (
        "<|user|>\nHi\n<|assistant|>\nHello.\n<|user|>\nWho are you?\n<|assistant|>\n"
    )
    generation = client.generate(turns, recipe={"scaffold": {"kind": "turns"}}, max_tokens=2)
    assert generation.started.prompt_tokens == (len(prompt.token_ids),)


def test_tokenize_spells_the_text(client: Client) -> None:
    (sequence,) = client.tokenize("Über die Brücke 🙂")
    assert b"".join(sequence.token_bytes).decode() == "Über die Brücke 🙂"
    assert client.tokenize("") == client.tokenize("")
    assert client.tokenize("")[0].token_ids == ()


def test_a_shared_prefix_is_computed_once(client: Client) -> None:
    prompt = "one two three four five six seven eight " * 8
    client.generate(prompt, max_tokens=1)
    again = client.generate(prompt, max_tokens=1)
    assert again.usage.cached_prompt_tokens >= 32
    assert again.usage.cached_prompt_tokens < again.usage.prompt_tokens


def test_timings_add_up(client: Client) -> None:
    timings = client.generate(WORDS, max_tokens=20).timings
    assert timings.queue >= 0
    assert timings.time_to_first_token == pytest.approx(timings.queue + timings.prefill, abs=1e-6)
    assert timings.total >= timings.time_to_first_token + timings.decode - 1e-6
