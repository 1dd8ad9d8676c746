"""Plans and messages, made in one line."""

from typing import Any

from bosal_decoding.compile import compile
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.scaffolds import Message
from bosal_decoding.vocabulary import Vocabulary


def plan_of(vocabulary: Vocabulary, *rules: dict[str, Any], **fields: Any) -> Plan:
    recipe = Recipe.parse({"rules": list(rules), **fields})
    return compile(recipe, vocabulary, context_tokens=4096)


def user(text: str) -> Message:
    return Message(role="user", text=text)
