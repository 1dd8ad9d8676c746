"""Sets of allowed tokens: alone, together, under scopes, and against a constraint's mask."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bosal_decoding.compile import compile
from bosal_decoding.errors import DecodingError, RuleConflict, RuleUnsupported, UnknownTokenString
from bosal_decoding.pieces import byte_alphabet
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import LegalTokens, SlotParams, SlotState, TouchedTokens, control, packed


def plan_of(vocabulary: Vocabulary, *rules: dict[str, Any]) -> Plan:
    return compile(Recipe.parse({"rules": list(rules)}), vocabulary, context_tokens=512)


def legal_at(plan: Plan, *outputs: list[int]) -> list[set[int]]:
    """The tokens left at the end of each output, all in one batch beside a slot without rules."""
    size = plan.vocabulary.size
    pipeline = Pipeline(size, len(outputs) + 1)
    pipeline.slots.add(0, plan_of(plan.vocabulary), history=[], seed=0, choice=0)
    for slot, output in enumerate(outputs, start=1):
        pipeline.slots.add(slot, plan, history=[], seed=0, choice=0)
        pipeline.slots.commit([slot], [output])
    slots = list(range(len(outputs) + 1))
    rows = pipeline.apply(torch.zeros(len(slots), size), slots).logits
    assert bool((rows[0] == 0).all())
    return [set((row > -torch.inf).nonzero().squeeze(1).tolist()) for row in rows[1:]]


def test_sets_are_intersected_and_scopes_switch_them(vocabulary: Vocabulary) -> None:
    plan = plan_of(
        vocabulary,
        {"rule": "allowed_tokens", "ids": [5, 6, 7], "scope": {"first": 2}},
        {"rule": "allowed_tokens", "ids": [7, 8], "allow_end": False, "scope": {"after": 2}},
    )
    assert legal_at(plan, [], [9], [9, 9], [9, 9, 9]) == [
        {0, 5, 6, 7},
        {0, 5, 6, 7},
        {7, 8},
        {7, 8},
    ]


def test_a_constraints_mask_narrows_them_and_nothing_lifts_them() -> None:
    state = SlotState(num_slots=3, vocab_size=70)
    for slot in range(2):
        params = SlotParams(key=0, allowed=(packed([3, 40, 69]), packed([3, 69, 31])))
        state.admit(slot, params, TouchedTokens.of([3], 2.0))
    everything = torch.full((2, 3), -1, dtype=torch.int32)
    everything[0, 0] = 0
    legal = LegalTokens(torch.tensor([1, 2]), everything)
    rows = control(torch.zeros(3, 70), state, torch.tensor([0, 1, 2]), legal).logits
    left = [set((row > -torch.inf).nonzero().squeeze(1).tolist()) for row in rows]
    assert left == [{3, 69}, {69}, set(range(70))]


def test_scripts_are_unicodes(vocabulary: Vocabulary) -> None:
    texts = ["ab", "é", "д", "中", "7", " ", "a中", "!", "😀", "\u0301"]
    alphabet = {byte: char for char, byte in byte_alphabet().items()}
    pieces = ["".join(alphabet[byte] for byte in text.encode()) for text in texts]
    pieces += [alphabet[0xE4], "<end>"]
    tokenizer = Tokenizer(models.BPE({piece: at for at, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = Vocabulary.from_tokenizer(tokenizer, eos_ids=[len(pieces) - 1])

    def allowed(**params: Any) -> list[str]:
        plan = plan_of(words, {"rule": "allowed_scripts", **params})
        (left,) = legal_at(plan, [])
        assert len(pieces) - 1 in left
        return [text for token, text in enumerate(texts) if token in left]

    common = ["7", " ", "!", "😀", "\u0301"]
    assert allowed(scripts=["Latin"]) == ["ab", "é", *common]
    assert allowed(scripts=["Han"], common=False) == ["中"]
    assert allowed(scripts=["Cyrillic", "Nd"], common=False) == ["д", "7"]
    assert allowed(scripts=["L"]) == ["ab", "é", "д", "中", *common[:2], "a中", *common[2:]]
    with pytest.raises(RuleUnsupported, match="'Elvish'") as caught:
        allowed(scripts=["Latin", "Elvish"])
    assert caught.value.field == "rules[0].scripts[1]"


def test_what_leaves_nothing_is_refused(vocabulary: Vocabulary) -> None:
    apart = [
        {"rule": "allowed_tokens", "ids": [5], "allow_end": False},
        {"rule": "allowed_scripts", "scripts": ["Han"], "common": False},
    ]
    with pytest.raises(RuleConflict, match="no token is in both") as caught:
        plan_of(vocabulary, *apart)
    assert caught.value.field == "rules[1]"
    with pytest.raises(RuleConflict, match="only the end") as caught:
        plan_of(
            vocabulary,
            {"rule": "min_tokens", "value": 2},
            {"rule": "allowed_tokens", "ids": [0]},
        )
    assert caught.value.metadata == {"first": "min_tokens", "second": "allowed_tokens"}
    wrongs: list[tuple[dict[str, Any], type[DecodingError]]] = [
        ({"ids": [vocabulary.size]}, DecodingError),
        ({"strings": ["quetzalcoatl"]}, UnknownTokenString),
        ({}, DecodingError),
    ]
    for wrong, kind in wrongs:
        with pytest.raises(kind):
            plan_of(vocabulary, {"rule": "allowed_tokens", **wrong})
