"""The decoding controls a recipe may use, one class each."""

from bosal_decoding.rules.catalogue import (
    RULES,
    RuleDescription,
    describe,
    installed,
    read_rule,
)
from bosal_decoding.rules.draft import Draft, PluginPart
from bosal_decoding.rules.plugin import PluginRule, Turn
from bosal_decoding.rules.rule import Rule, RuleStage

__all__ = [
    "RULES",
    "Draft",
    "PluginPart",
    "PluginRule",
    "Rule",
    "RuleDescription",
    "RuleStage",
    "Turn",
    "describe",
    "installed",
    "read_rule",
]
