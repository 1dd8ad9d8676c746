"""Running a suite against a server: what is asked, what is stored, and what failure leaves."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import pytest
from tests.lab.peer import Peer, Question, Refusal, serving

from bosal.v1 import generation_pb2
from bosal_client import AsyncClient, NotFound, assistant, user
from bosal_lab.evaluate import Settings, add_arms, evaluate, seed_of
from bosal_lab.evaluation_errors import ArmChangedError, ArmError, ServerLostError
from bosal_lab.item import Answer, Item, Score, Suite
from bosal_lab.record import Record
from bosal_lab.results import Results

RECIPES = ("plain", "steered")
SETTINGS = Settings()


class Exact:
    """A right answer is the item's; form is any text."""

    version = "exact 1"

    def score(self, item: Item, answer: Answer) -> Score:
        return Score(
            followed=bool(answer.text),
            right=answer.text == item.checks["is"],
            stopped=answer.has_stopped,
        )


def items(count: int) -> tuple[Item, ...]:
    return tuple(
        Item(
            id=f"q{number}",
            category="odd" if number % 2 else "even",
            split="test" if number % 4 else "dev",
            messages=(user(f"What is {number}?"),),
            checks={"is": str(number)},
        )
        for number in range(count)
    )


def suite(*of: Item) -> Suite:
    return Suite(name="numbers", items=of, scorer=Exact())


def steered_knows(question: Question) -> str:
    """`steered` answers; `plain` asks on."""
    number = question.texts[-1].removeprefix("What is ").removesuffix("?")
    return number if question.recipe == "steered" else "What is that?"


def run(
    peer: Peer,
    path: Path,
    asked: Suite,
    *,
    settings: Settings = SETTINGS,
    models: tuple[str, ...] = ("base",),
    recipes: tuple[str, ...] = RECIPES,
    seed: int = 7,
    is_coupled: bool = True,
    max_tokens: int | None = None,
    observe: Callable[[Record], None] = lambda record: None,
) -> None:
    async def main(results: Results) -> None:
        async with AsyncClient(peer.address) as client:
            arms = await add_arms(
                client,
                results,
                [(model, recipe) for model in models for recipe in recipes],
                seed=seed,
                is_coupled=is_coupled,
                max_tokens=max_tokens,
            )
            await evaluate(client, results, asked, arms, settings, observe)

    with Results.create(path, asked) as results:
        asyncio.run(main(results))


def test_every_arm_answers_every_item_and_is_scored(tmp_path: Path) -> None:
    path, asked, peer = tmp_path / "r.sqlite", suite(*items(9)), Peer(steered_knows)
    with serving(peer):
        run(peer, path, asked, models=("base", "tuned"))
    with Results.open(path) as results:
        assert list(results.arms) == ["base/plain", "base/steered", "tuned/plain", "tuned/steered"]
        for arm in results.arms:
            is_right = float(arm.endswith("steered"))
            assert results.scores(arm, "success") == {(item, 0): is_right for item in results.items}
        record = next(results.records("base/steered"))
    assert record.text == "0"
    assert record.token_ids == (ord("0"),)
    assert record.ranks == (2,)
    assert record.finish_reason == "stop_token"
    assert record.started["model_digest"] == "d1"
    assert record.timings["total"] == pytest.approx(0.003)


def test_a_second_run_asks_nothing_again(tmp_path: Path) -> None:
    path, asked, peer = tmp_path / "r.sqlite", suite(*items(5)), Peer(steered_knows)
    with serving(peer):
        run(peer, path, asked)
        before = len(peer.questions)
        run(peer, path, asked)
        assert len(peer.questions) == before == 10
        run(peer, path, asked, settings=Settings(samples=2))
        assert len(peer.questions) == 20


def test_coupled_arms_share_seeds_and_others_do_not(tmp_path: Path) -> None:
    asked = suite(*items(4))
    for is_coupled in (True, False):
        peer = Peer(steered_knows)
        with serving(peer):
            run(
                peer,
                tmp_path / f"{is_coupled}.sqlite",
                asked,
                settings=Settings(samples=3),
                is_coupled=is_coupled,
            )
        times = Counter(Counter(question.seed for question in peer.questions).values())
        assert times == ({2: 12} if is_coupled else {1: 24})


def test_a_seed_depends_on_noise_item_sample_and_turn_alone() -> None:
    seeds = {
        seed_of(noise, item, sample, turn)
        for noise in ("7", "8")
        for item in ("a", "b")
        for sample in range(3)
        for turn in range(2)
    }
    assert len(seeds) == 24
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Frozen: recorded results are only coupled with later ones while this holds.
    assert seed_of("7", "a", 0, 0) == 1087008716177916270


def test_only_the_split_is_asked(tmp_path: Path) -> None:
    path, peer = tmp_path / "r.sqlite", Peer(steered_knows)
    with serving(peer):
        run(peer, path, suite(*items(8)), settings=Settings(split="dev"), recipes=("plain",))
    assert sorted(question.texts for question in peer.questions) == [
        ("What is 0?",),
        ("What is 4?",),
    ]


def test_a_first_answer_stands_in_the_second_question(tmp_path: Path) -> None:
    talk = Item(
        id="talk",
        category="two turns",
        split="test",
        messages=(user("Hello"), assistant("Hi."), user("What is 1?"), user("What is 2?")),
        checks={"is": "2"},
    )
    path, peer = tmp_path / "r.sqlite", Peer(steered_knows)
    with serving(peer):
        run(peer, path, suite(talk), recipes=("steered",))
    assert [question.texts for question in peer.questions] == [
        ("Hello", "Hi.", "What is 1?"),
        ("Hello", "Hi.", "What is 1?", "1", "What is 2?"),
    ]
    assert peer.questions[0].seed != peer.questions[1].seed
    with Results.open(path) as results:
        (record,) = results.records("base/steered")
        assert (record.earlier, record.text) == (("1",), "2")
        assert results.scores("base/steered", "success") == {("talk", 0): 1.0}


def test_no_more_requests_are_under_way_than_the_window_allows(tmp_path: Path) -> None:
    def slowly(question: Question) -> str:
        time.sleep(0.02)
        return "1"

    peer = Peer(slowly)
    with serving(peer):
        run(peer, tmp_path / "r.sqlite", suite(*items(12)), settings=Settings(window=3))
    assert peer.most_at_once == 3


def test_an_item_that_fails_is_recorded_and_the_others_are_answered(tmp_path: Path) -> None:
    def fails_on_three(question: Question) -> str:
        if question.recipe == "steered" and question.texts == ("What is 3?",):
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "the prompt is too long")
        return steered_knows(question)

    path, asked, peer = tmp_path / "r.sqlite", suite(*items(6)), Peer(fails_on_three)
    with serving(peer):
        run(peer, path, asked)
        with Results.open(path) as results:
            errors = [record for record in results.records("base/steered") if record.error]
            assert [record.item for record in errors] == ["q3"]
            assert "the prompt is too long" in errors[0].error
            assert len(results.scores("base/steered", "success")) == 5
            assert len(results.scores("base/plain", "success")) == 6
        peer.speak = steered_knows
        before = len(peer.questions)
        run(peer, path, asked)
        assert len(peer.questions) == before
        run(peer, path, asked, settings=Settings(retries_errors=True))
    with Results.open(path) as results:
        assert results.scores("base/steered", "success")[("q3", 0)] == 1.0


def test_an_internal_failure_of_a_living_server_concerns_one_item(tmp_path: Path) -> None:
    def breaks_once(question: Question) -> str:
        if question.texts == ("What is 2?",):
            raise ValueError("a bug of the server")
        return "1"

    path, peer = tmp_path / "r.sqlite", Peer(breaks_once)
    with serving(peer):
        run(peer, path, suite(*items(4)), recipes=("plain",))
    with Results.open(path) as results:
        assert [bool(record.error) for record in results.records("base/plain")] == [
            False,
            False,
            True,
            False,
        ]


def test_a_full_server_is_waited_for(tmp_path: Path) -> None:
    refused: Counter[tuple[str, ...]] = Counter()
    lock = threading.Lock()

    def refuses_first(question: Question) -> str:
        with lock:
            refused[question.texts] += 1
            if refused[question.texts] == 1:
                raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
        return "1"

    path, peer = tmp_path / "r.sqlite", Peer(refuses_first, has_reasons=True)
    with serving(peer):
        run(peer, path, suite(*items(2)), recipes=("plain",))
    with Results.open(path) as results:
        assert [record.error for record in results.records("base/plain")] == ["", ""]
    assert set(refused.values()) == {2}


def test_a_dying_server_is_one_clear_error_and_the_run_goes_on_from_there(tmp_path: Path) -> None:
    path, asked = tmp_path / "r.sqlite", suite(*items(30))
    peer = Peer(steered_knows)
    stored: list[Record] = []
    with serving(peer) as kill:

        def observe(record: Record) -> None:
            stored.append(record)
            if len(stored) == 10:
                kill()

        with pytest.raises(ServerLostError, match=r"\d+ of 60 answers are in .*r.sqlite"):
            run(peer, path, asked, settings=Settings(window=4), observe=observe)
    with Results.open(path) as results:
        kept = [record for arm in results.arms for record in results.records(arm)]
        assert not any(record.error for record in kept)
        assert {(record.arm, record.item) for record in stored} == {
            (record.arm, record.item) for record in kept
        }
    assert 10 <= len(kept) < 60
    restarted = Peer(steered_knows)
    with serving(restarted):
        run(restarted, path, asked)
    assert len(restarted.questions) == 60 - len(kept)
    with Results.open(path) as results:
        assert [len(results.scores(arm, "success")) for arm in results.arms] == [30, 30]


def test_a_server_that_never_answered_is_unavailable(tmp_path: Path) -> None:
    peer = Peer(steered_knows)
    with serving(peer) as kill:
        run(peer, tmp_path / "r.sqlite", suite(*items(1)))
        kill()
    with pytest.raises(ServerLostError, match="2 of 4 answers"):
        asyncio.run(_go_on(peer, tmp_path / "r.sqlite"))


async def _go_on(peer: Peer, path: Path) -> None:
    asked = suite(*items(1))
    with Results.create(path, asked) as results:
        async with AsyncClient(peer.address) as client:
            arms = list(results.arms.values())
            await evaluate(client, results, asked, arms, Settings(samples=2))


@pytest.mark.parametrize(
    ("digest", "version", "what"),
    [("d2", "v1", "model digest d1.*d2"), ("d1", "v2", "recipe version v1.*v2")],
)
def test_a_server_that_changed_does_not_add_to_old_answers(
    tmp_path: Path, digest: str, version: str, what: str
) -> None:
    path, asked = tmp_path / "r.sqlite", suite(*items(3))
    with serving(peer := Peer(steered_knows)):
        run(peer, path, asked)
    with (
        serving(changed := Peer(steered_knows, digest=digest, version=version)),
        pytest.raises(ArmChangedError, match=what),
    ):
        run(changed, path, asked, settings=Settings(samples=2))
    assert changed.questions == []


def test_another_seed_or_length_does_not_mix_with_recorded_answers(tmp_path: Path) -> None:
    path, asked = tmp_path / "r.sqlite", suite(*items(3))
    with serving(peer := Peer(steered_knows)):
        run(peer, path, asked)
        with pytest.raises(ArmChangedError, match="noise 7.*8"):
            run(peer, path, asked, seed=8)
        with pytest.raises(ArmChangedError, match="max tokens"):
            run(peer, path, asked, max_tokens=5)


def test_a_model_swapped_in_the_middle_ends_the_run(tmp_path: Path) -> None:
    def swaps(question: Question) -> str:
        if question.texts == ("What is 5?",):
            peer.digest = "d2"
        return "1"

    path, peer = tmp_path / "r.sqlite", Peer(swaps)
    with serving(peer), pytest.raises(ArmChangedError, match="model digest"):
        run(peer, path, suite(*items(20)), settings=Settings(window=1), recipes=("plain",))
    with Results.open(path) as results:
        assert len(list(results.records("base/plain"))) == 5


def test_a_recipe_document_is_sent_whole(tmp_path: Path) -> None:
    path, asked, peer = tmp_path / "r.sqlite", suite(*items(1)), Peer(steered_knows)
    document = {"name": "mine", "rules": [{"rule": "temperature", "value": 0}]}

    async def main(results: Results) -> None:
        async with AsyncClient(peer.address) as client:
            arms = await add_arms(client, results, [("", document)], seed=1)
            await evaluate(client, results, asked, arms, Settings(has_ranks=False))

    with serving(peer), Results.create(path, asked) as results:
        asyncio.run(main(results))
        (arm,) = results.arms.values()
        assert (arm.name, arm.recipe_document) == ("base/mine", document)
        (record,) = results.records("base/mine")
        assert record.ranks == ()
    assert [question.recipe for question in peer.questions] == ["mine"]


def test_arms_that_cannot_run_leave_nothing_behind(tmp_path: Path) -> None:
    broken = {"name": "mine", "rules": [{"rule": "broken"}]}
    other = {"name": "plain", "rules": []}

    async def main(results: Results, *recipes: str | Mapping[str, object]) -> None:
        async with AsyncClient(peer.address) as client:
            await add_arms(client, results, [("", recipe) for recipe in recipes], seed=1)

    with (
        serving(peer := Peer(steered_knows)),
        Results.create(tmp_path / "r.sqlite", suite(*items(1))) as results,
    ):
        with pytest.raises(ArmError, match="mine does not work with model base.*broken"):
            asyncio.run(main(results, "plain", broken))
        with pytest.raises(ArmError, match="two recipes are called 'plain'"):
            asyncio.run(main(results, "plain", other))
        assert results.arms == {}
        asyncio.run(main(results, "plain", "plain"))
        assert list(results.arms) == ["base/plain"]


def test_an_answer_that_was_cut_is_stored_as_such(tmp_path: Path) -> None:
    path, asked = tmp_path / "r.sqlite", suite(*items(1))
    peer = Peer(steered_knows, finish_reason=generation_pb2.FINISH_REASON_MAX_TOKENS)
    with serving(peer):
        run(peer, path, asked, recipes=("steered",))
    with Results.open(path) as results:
        (record,) = results.records("base/steered")
        assert not record.has_stopped
        assert results.scores("base/steered", "right") == {("q0", 0): 1.0}
        assert results.scores("base/steered", "success") == {("q0", 0): 0.0}


def test_unknown_models_and_recipes_are_named_before_any_work(tmp_path: Path) -> None:
    with serving(peer := Peer(steered_knows)):
        with pytest.raises(ArmError, match="did you mean 'tuned'"):
            run(peer, tmp_path / "r.sqlite", suite(*items(1)), models=("tined",))
        with pytest.raises(NotFound, match="steerd"):
            run(peer, tmp_path / "r.sqlite", suite(*items(1)), recipes=("steerd",))
    assert peer.questions == []
