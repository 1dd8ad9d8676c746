"""Conversations that are too long: what goes first, and that no more goes than must."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bosal_decoding.compile import compile
from bosal_decoding.errors import PromptTooLong
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.scaffolds import SCAFFOLDS, Message
from bosal_decoding.vocabulary import Vocabulary

EXAMPLES = [
    {"instruction": "Name a lake.", "answer": "A lake is water."},
    {"instruction": "Name a river.", "answer": "The Rhine is a river."},
    {"instruction": "What is a garden?", "answer": "We read in the garden."},
]
SHOWN = {"kind": "in_context", "examples": EXAMPLES}
CHOSEN = {**SHOWN, "choose": 3}
SAID = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["user", "assistant"]),
        text=st.text("Ia the", min_size=1, max_size=80).filter(str.strip),
    ),
    max_size=8,
)
QUESTION = Message(role="user", text="Name a river and a lake.")


def plan_of(
    vocabulary: Vocabulary, scaffold: dict[str, Any], context: int, *rules: dict[str, Any]
) -> Plan:
    document = {"scaffold": {**scaffold, "drop_oldest": True}, "rules": list(rules)}
    return compile(Recipe.parse(document), vocabulary, context_tokens=context)


def scaffolds() -> list[dict[str, Any]]:
    template = {"template": "Asked {instruction}\nI say:"}
    plain = [
        {"kind": kind} | (template if kind == "completion_prefix" else {}) for kind in SCAFFOLDS
    ]
    return [*plain, SHOWN, CHOSEN]


@pytest.mark.parametrize("scaffold", scaffolds(), ids=lambda one: str(one["kind"]))
@given(said=SAID, context=st.integers(60, 300), max_tokens=st.integers(1, 40))
def test_the_fewest_parts_go_that_let_the_answer_fit(
    vocabulary: Vocabulary,
    scaffold: dict[str, Any],
    said: list[Message],
    context: int,
    max_tokens: int,
) -> None:
    plan = plan_of(vocabulary, scaffold, context)
    messages = [*said, QUESTION]
    turns = [at for at, message in enumerate(messages) if at and message.role == "user"]
    num_examples = len(scaffold.get("examples", ()))
    ways = [(at, 0) for at in (0, *turns)]
    ways += [(ways[-1][0], number + 1) for number in range(num_examples)]

    def text(cut: int, dropped: int) -> str:
        own = dict(scaffold)
        if dropped == num_examples:
            own = {key: value for key, value in own.items() if key not in ("choose", "examples")}
        elif "choose" in own:
            own["choose"] -= dropped
        elif dropped:
            own["examples"] = own["examples"][dropped:]
        rendered = Recipe.parse({"scaffold": own}).scaffold.render(messages[cut:])
        return rendered[0].text

    texts = [text(*way) for way in ways]
    fitting = [
        place
        for place, one in enumerate(texts)
        if len(vocabulary.encode(one)) + max_tokens <= context
    ]
    if not fitting:
        with pytest.raises(PromptTooLong, match=str(context)):
            plan.output_budget(plan.prompts(messages, max_tokens), max_tokens)
        return
    (prompt,) = plan.prompts(messages, max_tokens)
    assert plan.output_budget([prompt], max_tokens) == max_tokens
    assert prompt.text == texts[fitting[0]]
    assert (prompt.dropped_messages, prompt.dropped_examples) == ways[fitting[0]]
    assert prompt.token_ids == tuple(vocabulary.encode(prompt.text))


def test_the_answer_has_the_room_that_the_recipe_wants(vocabulary: Vocabulary) -> None:
    said = [Message(role="user", text="the river " * 10) for _ in range(6)]
    lengths = []
    for rules in ([], [{"rule": "max_tokens", "value": 5}]):
        (prompt,) = plan_of(vocabulary, {"kind": "turns"}, 200, *rules).prompts([*said, QUESTION])
        lengths.append(len(prompt.token_ids))
    # Half of the context, unless somebody says how much.
    assert lengths[0] <= 100 < lengths[1] <= 195


def test_every_stream_must_fit(vocabulary: Vocabulary) -> None:
    long = "We should read the book in the garden. " * 4
    rule = {"rule": "guidance", "negative": long}
    said = [Message(role="user", text="the river " * 9) for _ in range(8)]
    plain = plan_of(vocabulary, {"kind": "qa"}, 160).prompts([*said, QUESTION], 10)
    both = plan_of(vocabulary, {"kind": "qa"}, 160, rule).prompts([*said, QUESTION], 10)
    assert both[0].dropped_messages > plain[0].dropped_messages
    assert all(len(prompt.token_ids) + 10 <= 160 for prompt in both)


def test_a_conversation_is_shortened_only_where_the_scaffold_says_so(
    vocabulary: Vocabulary,
) -> None:
    said = [Message(role="user", text="the river " * 40), QUESTION]
    recipe = Recipe.parse({"scaffold": {"kind": "qa"}})
    with pytest.raises(PromptTooLong):
        compile(recipe, vocabulary, context_tokens=64).prompts(said, 8)
    (prompt,) = plan_of(vocabulary, {"kind": "qa"}, 64).prompts(said, 8)
    assert prompt.dropped_messages == 1


def test_examples_beyond_the_context_are_dropped_too(vocabulary: Vocabulary) -> None:
    many = {"kind": "in_context", "examples": EXAMPLES * 10}
    (prompt,) = plan_of(vocabulary, many, 100).prompts([QUESTION], 20)
    assert 0 < prompt.dropped_examples < 30
    assert len(prompt.token_ids) <= 80
    # The last examples stay.
    assert prompt.text.endswith("A: We read in the garden.\n\nQ: Name a river and a lake.\nA:")
