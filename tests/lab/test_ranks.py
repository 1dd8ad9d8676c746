"""Ranks under the plain model against counting, and what is asked to get them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lab import records
from tests.lab.peer import Peer, serving
from tests.server.conftest import TINY_LLAMA, save_model
from transformers import AutoModelForCausalLM

from bosal_client import Client, assistant, user
from bosal_lab.item import Item, Suite
from bosal_lab.ranks import rank_tokens, store_plain_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny"), "llama", **TINY_LLAMA)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def counted(model: Any, prompt: list[int], answer: list[int]) -> tuple[int, ...]:
    """One position at a time, nothing batched."""
    ranks = []
    for place, token in enumerate(answer):
        with torch.no_grad():
            row = model(input_ids=torch.tensor([prompt + answer[:place]])).logits[0, -1]
        ranks.append(1 + sum(float(other) > float(row[token]) for other in row))
    return tuple(ranks)


def test_ranks_in_a_batch_equal_counting_alone(model: Any) -> None:
    prompts = [[5, 6, 7], [300], [12, 13, 14, 15, 16, 17]]
    answers = [[8, 9, 10, 11], [1, 2], [399, 0, 20]]
    assert rank_tokens(model, prompts, answers) == [
        counted(model, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)
    ]


def test_the_models_own_choice_has_rank_one(model: Any) -> None:
    prompt = [5, 6, 7]
    answer: list[int] = []
    for _ in range(5):
        with torch.no_grad():
            row = model(input_ids=torch.tensor([prompt + answer])).logits[0, -1]
        answer.append(int(row.argmax()))
    assert rank_tokens(model, [prompt], [answer]) == [(1, 1, 1, 1, 1)]


def test_every_answer_is_ranked_once_after_the_bare_conversation(
    model: Any, folder: Path, tmp_path: Path
) -> None:
    talk = Item(
        id="talk",
        category="talk",
        split="test",
        messages=(user("Hi"), assistant("Ho"), user("Who?")),
    )
    of = Suite(name="s", items=(*records.suite(2).items, talk), scorer=records.Right())
    answers = {
        "base/steered": [["yes"], ["no", "never"], ["me"]],
        "tuned/plain": [["!"], ["no"], ["you"]],
    }
    with (
        serving(peer := Peer(lambda question: "")),
        records.results(tmp_path / "r.sqlite", of, answers) as results,
        Client(peer.address) as client,
    ):
        store_plain_ranks(results, client, "base", folder)
        ranks = results.plain_ranks()
        asked = list(peer.tokenized)
        store_plain_ranks(results, client, "base", folder)
        assert results.plain_ranks() == ranks
        assert peer.tokenized == asked
    assert len(ranks) == 6
    prompt = list(b"Hi\nHo\nWho?\n")
    assert ranks["tuned/plain", "talk", 0] == counted(model, prompt, list(b"you"))
    assert ("base", "plain", ("Hi", "Ho", "Who?")) in asked
    assert len(asked) == 3
