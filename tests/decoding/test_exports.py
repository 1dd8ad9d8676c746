"""The names other parts may rely on."""

import bosal_decoding
import bosal_decoding.rules
from bosal_decoding import DecodingError


def test_the_package_exports_its_vocabulary() -> None:
    assert bosal_decoding.__all__ == [
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
    assert all(hasattr(bosal_decoding, name) for name in bosal_decoding.__all__)


def test_the_rules_export_what_a_new_rule_needs() -> None:
    assert {"RULES", "Draft", "PluginRule", "Rule", "RuleStage", "Turn"} <= set(
        bosal_decoding.rules.__all__
    )


def family(root: type[DecodingError]) -> list[type[DecodingError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in family(child))]


def test_errors_name_a_reason_and_a_status() -> None:
    kinds = family(bosal_decoding.DecodingError)
    assert len({kind.reason for kind in kinds}) == len(kinds)
    refusals = {"INVALID_ARGUMENT", "FAILED_PRECONDITION"}
    # Only code that is not ours may fail at its work.
    faults = {kind.reason for kind in kinds if kind.code == "INTERNAL"}
    assert faults == {"PLUGIN_FAULT"}
    limits = {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert {kind.code for kind in kinds} <= refusals | limits | {"INTERNAL"}
    assert all((kind.__doc__ or "").startswith("Raised when ") for kind in kinds)
