"""What counts as the end of a sentence."""

import pytest

from bosal_decoding.sentences import ends_sentence


@pytest.mark.parametrize(
    "text", ["Yes.", "He said: “No!”", "(Why?) ", "是。", "**Done.**\n\n", "Wait…", "A.\t"]
)
def test_it_is_finished(text: str) -> None:
    assert ends_sentence(text)


@pytest.mark.parametrize("text", ["", " ", "Yes", "a, ", "3.5", "end. And", '"', "x:"])
def test_it_is_not(text: str) -> None:
    assert not ends_sentence(text)
