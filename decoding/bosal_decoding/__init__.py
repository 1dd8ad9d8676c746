"""Decoding control for base models: recipes, rules, scaffolds, and plans compiled from them.

The work happens in `compile.compile`, in `slots.Slots`, which keeps what choices hold, and in
`pipeline.Pipeline`, which takes their steps.
"""

from bosal_decoding.errors import DecodingError
from bosal_decoding.plan import CompiledRule, Plan
from bosal_decoding.prompt import Prompt
from bosal_decoding.recipe import Recipe, load_folder, load_shipped
from bosal_decoding.rules import RuleDescription, describe
from bosal_decoding.scaffolds import Message
from bosal_decoding.stopping import BanMatch, StopMatch, TextStop
from bosal_decoding.vocabulary import Vocabulary

__all__ = [
    "BanMatch",
    "CompiledRule",
    "DecodingError",
    "Message",
    "Plan",
    "Prompt",
    "Recipe",
    "RuleDescription",
    "StopMatch",
    "TextStop",
    "Vocabulary",
    "describe",
    "load_folder",
    "load_shipped",
]
