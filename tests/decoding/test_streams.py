"""Which streams a recipe's rules make, and what is refused."""

from typing import Any

import pytest
import torch

from bosal_decoding.compile import compile
from bosal_decoding.errors import (
    DecodingError,
    InvalidConversation,
    PromptTooLong,
    RuleConflict,
    UnknownName,
    VocabulariesDiffer,
)
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import RULES
from bosal_decoding.scaffolds import Message
from bosal_decoding.streams import StreamModel
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import Space

ASKED = [Message(role="user", text="Name a river.")]
IN_CONTEXT = {
    "kind": "in_context",
    "examples": [{"instruction": "Name a lake.", "answer": "A lake is water."}],
}


def plan_of(
    vocabulary: Vocabulary,
    *rules: dict[str, Any],
    models: tuple[StreamModel, ...] = (),
    scaffold: dict[str, Any] | None = None,
    context_tokens: int = 512,
) -> Plan:
    document = {"scaffold": scaffold or {"kind": "turns"}, "rules": list(rules)}
    return compile(Recipe.parse(document), vocabulary, context_tokens=context_tokens, models=models)


def served(vocabulary: Vocabulary, *names: str) -> tuple[StreamModel, ...]:
    return tuple(
        StreamModel(name=name, vocabulary=vocabulary, context_tokens=512) for name in names
    )


def test_guidance_leaves_the_instruction_out_of_the_same_scaffold(vocabulary: Vocabulary) -> None:
    plan = plan_of(vocabulary, {"rule": "guidance"}, scaffold=IN_CONTEXT)
    asked, unasked = plan.prompts(ASKED)
    assert asked.text == "Q: Name a lake.\nA: A lake is water.\n\nQ: Name a river.\nA:"
    assert unasked.text == "Q: Name a lake.\nA: A lake is water.\n\nQ: \nA:"
    assert plan.num_streams == 2
    assert unasked.pin_tokens > 10
    assert unasked.history_ids == ()


def test_an_empty_unconditional_prompt_is_the_last_token(vocabulary: Vocabulary) -> None:
    plan = plan_of(vocabulary, {"rule": "guidance"}, scaffold={"kind": "raw"})
    asked, unasked = plan.prompts(ASKED)
    assert unasked.token_ids == asked.token_ids[-1:]
    told = plan_of(vocabulary, {"rule": "guidance", "unconditional": "last_token"})
    asked, unasked = told.prompts(ASKED)
    assert unasked.token_ids == asked.token_ids[-1:]


def test_earlier_turns_stay_in_the_unconditional_prompt(vocabulary: Vocabulary) -> None:
    plan = plan_of(vocabulary, {"rule": "guidance"})
    turns = [*ASKED, Message(role="assistant", text="The Rhine."), *ASKED]
    assert "The Rhine." in plan.prompts(turns)[1].text
    assert plan.prompts(turns)[1].text.count("Name a river.") == 1


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"negative": "Say no."}, "<|user|>\nSay no.\n<|assistant|>\n"),
        ({"negative_prompt": "Say no."}, "Say no."),
    ],
)
def test_a_negative_fills_the_scaffold_or_is_the_whole_prompt(
    vocabulary: Vocabulary, params: dict[str, str], text: str
) -> None:
    plan = plan_of(vocabulary, {"rule": "guidance", **params})
    assert plan.prompts(ASKED)[1].text == text


def test_context_aware_leaves_out_what_stands_before_the_question(vocabulary: Vocabulary) -> None:
    plan = plan_of(vocabulary, {"rule": "context_aware"}, scaffold={"kind": "plain"})
    message = Message(role="user", text="One.\n\nTwo.\n\nName a lake.\n")
    assert [prompt.text for prompt in plan.prompts([message])] == [
        "One.\n\nTwo.\n\nName a lake.\n\n",
        "Name a lake.\n",
    ]
    with pytest.raises(InvalidConversation, match="finds no context"):
        plan.prompts(ASKED)


def test_streams_have_their_roles_models_and_scaffolds(vocabulary: Vocabulary) -> None:
    rule = {
        "rule": "proxy_tuning",
        "expert": "small",
        "anti_expert": "plain",
        "expert_scaffold": {"kind": "plain"},
    }
    plan = plan_of(vocabulary, rule, models=served(vocabulary, "small", "plain"))
    assert [(stream.role, stream.model) for stream in plan.streams] == [
        ("base", ""),
        ("expert", "small"),
        ("anti_expert", "plain"),
    ]
    base, expert, anti_expert = plan.prompts(ASKED)
    assert expert.text == "Name a river.\n"
    assert anti_expert.text == base.text
    assert plan.coupling is not None
    assert plan.coupling.space is Space.LOGITS


def test_an_unknown_model_is_named_with_its_field(vocabulary: Vocabulary) -> None:
    models = served(vocabulary, "base", "amateur")
    with pytest.raises(UnknownName, match="did you mean 'amateur'") as caught:
        plan_of(vocabulary, {"rule": "contrastive", "amateur": "amatuer"}, models=models)
    assert caught.value.field == "rules[0].amateur"


def test_another_vocabulary_is_refused_with_the_first_difference(
    vocabulary: Vocabulary, spaced_vocabulary: Vocabulary
) -> None:
    models = served(spaced_vocabulary, "other")
    with pytest.raises(VocabulariesDiffer, match=r"id 0 is '<unk>' there") as caught:
        plan_of(vocabulary, {"rule": "realign", "aligned": "other"}, models=models)
    assert caught.value.field == "rules[0].aligned"


def test_one_tokenizer_with_another_beginning_or_end_is_the_same_vocabulary(
    vocabulary: Vocabulary, byte_level_with_bos: Any
) -> None:
    other = Vocabulary.from_tokenizer(byte_level_with_bos, eos_ids=[0, 1])
    assert other != vocabulary
    assert vocabulary.first_difference(other) is None
    plan_of(vocabulary, {"rule": "realign", "aligned": "x"}, models=served(other, "x"))


def test_one_rule_combines(vocabulary: Vocabulary) -> None:
    with pytest.raises(RuleConflict, match="combined by one rule") as caught:
        plan_of(vocabulary, {"rule": "guidance"}, {"rule": "context_aware"})
    assert caught.value.field == "rules[1]"


def test_a_negative_prompt_over_the_context_names_its_stream(vocabulary: Vocabulary) -> None:
    plan = plan_of(
        vocabulary,
        {"rule": "guidance", "negative_prompt": "the river " * 60},
        context_tokens=64,
    )
    with pytest.raises(PromptTooLong, match="stream 1") as caught:
        plan.prompts(ASKED)
    assert caught.value.metadata["stream"] == "1"
    assert int(caught.value.metadata["prompt_tokens"]) > 64


def test_the_default_budget_leaves_room_in_every_stream(vocabulary: Vocabulary) -> None:
    small = StreamModel(name="small", vocabulary=vocabulary, context_tokens=40)
    plan = plan_of(vocabulary, {"rule": "realign", "aligned": "small"}, models=(small,))
    prompts = plan.prompts(ASKED)
    assert plan.output_budget(prompts) == 40 - len(prompts[1].token_ids)
    with pytest.raises(PromptTooLong, match="stream 1"):
        plan.output_budget(prompts, 60)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"rule": "guidance", "scale": 101}, "rules[0].scale"),
        ({"rule": "guidance", "over": 0}, "rules[0].over"),
        ({"rule": "guidance", "negative": "a", "negative_prompt": "b"}, "rules[0]"),
        ({"rule": "guidance", "gamma": 2}, "rules[0].gamma"),
        ({"rule": "guidance", "over": 9}, "rules[0]"),
        ({"rule": "guidance", "negative": "a", "unconditional": "last_token"}, "rules[0]"),
        (
            {"rule": "expert_antiexpert", "expert": "a", "anti_expert_scaffold": {"kind": "qa"}},
            "rules[0]",
        ),
        ({"rule": "context_aware", "alpha": float("nan")}, "rules[0].alpha"),
        ({"rule": "contrastive"}, "rules[0]"),
        ({"rule": "contrastive", "amateur": "a", "beta": -101}, "rules[0].beta"),
        ({"rule": "contrastive", "amateur": "a", "plausibility": 1.1}, "rules[0].plausibility"),
        (
            {"rule": "contrastive", "amateur_prompt": "a", "ignore_prompt": True},
            "rules[0]",
        ),
        ({"rule": "proxy_tuning", "expert": "a"}, "rules[0].anti_expert"),
        ({"rule": "expert_antiexpert"}, "rules[0]"),
        ({"rule": "expert_antiexpert", "expert": "a", "prefilter": 0}, "rules[0].prefilter"),
        ({"rule": "blend"}, "rules[0]"),
        (
            {"rule": "blend", "guide_scaffold": {"kind": "plane"}},
            "rules[0].guide_scaffold",
        ),
    ],
)
def test_bad_parameters_are_refused_by_field(
    vocabulary: Vocabulary, rule: dict[str, Any], field: str
) -> None:
    with pytest.raises(DecodingError) as caught:
        plan_of(vocabulary, rule, models=served(vocabulary, "a"))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("guidance", {"scale": 1}),
        ("context_aware", {"alpha": 0}),
        ("contrastive", {"beta": 0, "amateur": "other"}),
        ("proxy_tuning", {"alpha": 0, "expert": "other", "anti_expert": "third"}),
        ("expert_antiexpert", {"alpha": 0, "expert": "other"}),
        ("realign", {"weight": 0, "aligned": "other"}),
    ],
)
def test_a_combination_that_says_it_is_off_leaves_the_base(
    vocabulary: Vocabulary, name: str, params: dict[str, Any]
) -> None:
    """By its summary; of its other parameters some have defaults that mask."""
    plan = plan_of(
        vocabulary, {"rule": name, **params}, models=served(vocabulary, "other", "third")
    )
    pipeline = Pipeline(vocabulary.size, 1)
    pipeline.slots.add(0, plan, history=[], seed=0, choice=0)
    generator = torch.Generator().manual_seed(1)
    rows = 3 * torch.randn(plan.num_streams, vocabulary.size, generator=generator)
    found = pipeline.combine(rows.clone(), [0]).rows[0]
    is_off = torch.allclose(found.log_softmax(0), rows[0].log_softmax(0), atol=1e-5)
    assert is_off == RULES[name].summary.endswith("is off.")
