"""Ranks of emitted tokens under the plain model: how far an answer is from what it wanted.

The server ranks a token after the recipe's own prompt. Here the model reads the bare instruction
and the answer so far, as in Lin et al., "The Unlocking Spell on Base LLMs" (2023).
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from bosal_client import Client
from bosal_client.requests import Message
from bosal_lab.record import Record
from bosal_lab.results import Results

__all__ = ["rank_tokens", "store_plain_ranks"]

_BATCH = 16
_PLAIN = "plain"


@torch.inference_mode()
def rank_tokens(
    model: torch.nn.Module, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[tuple[int, ...]]:
    """Return, for each answer's tokens, 1 + the number of tokens the model had liked better."""
    texts = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, texts))
    # What stands behind a text cannot change it: attention is causal.
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
    logits = model(input_ids=ids).logits.float()
    found = []
    for row, prompt, answer in zip(logits, prompts, answers, strict=True):
        before = row[len(prompt) - 1 : len(prompt) - 1 + len(answer)]
        own = before.gather(1, torch.tensor(answer).unsqueeze(1))
        found.append(tuple((1 + (before > own).sum(1)).tolist()))
    return found


def store_plain_ranks(results: Results, client: Client, name: str, folder: Path) -> None:
    """Rank every answer that has no plain ranks yet under the model `name`, read from `folder`.

    Its vocabulary must be that of every arm's model.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts: dict[tuple[Message, ...], tuple[int, ...]] = {}

    def prompt_of(record: Record) -> tuple[int, ...]:
        said = results.items[record.item].asked(record.earlier)
        if said not in prompts:
            (sequence,) = client.tokenize(prompt=said, recipe=_PLAIN, model=name)
            prompts[said] = sequence.token_ids
        return prompts[said]

    waiting = _unranked(results)
    while batch := list(islice(waiting, _BATCH)):
        ranks = rank_tokens(
            model, [prompt_of(record) for record in batch], [record.token_ids for record in batch]
        )
        results.set_plain_ranks(zip(batch, ranks, strict=True))


def _unranked(results: Results) -> Iterator[Record]:
    done = results.plain_ranks()
    for arm in results.arms:
        for record in results.records(arm):
            if record.token_ids and (arm, record.item, record.sample) not in done:
                yield record
