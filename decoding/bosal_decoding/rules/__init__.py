"""The decoding controls a recipe may use, one class each."""

from bosal_decoding.rules.catalogue import RULES, RuleDescription, describe, read_rule
from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.rule import Rule, RuleStage

__all__ = ["RULES", "Draft", "Rule", "RuleDescription", "RuleStage", "describe", "read_rule"]
