"""The forms of items: each admits the item's right answers and shuts out other forms."""

import json
import re
from typing import Any

import jsonschema
import pytest

from bosal_lab.forms import FORMED, form_of, is_formed
from bosal_lab.item import Item
from bosal_lab.suite import lab_suite

FORMS = ("yes_no", "choose", "year", "count", "sentence", "bullets", "json")


def admits(form: dict[str, Any], text: str) -> bool:
    if "choice" in form:
        return text in form["choice"]
    if "regex" in form:
        return re.fullmatch(form["regex"], text) is not None
    return bool(jsonschema.Draft202012Validator(form["json_schema"]).is_valid(json.loads(text)))


@pytest.mark.parametrize("category", FORMS)
def test_a_form_admits_the_right_answers_of_its_items(category: str) -> None:
    items = [item for item in lab_suite().items if item.category == category]
    assert items
    for item in items:
        form = form_of(item)
        if form is None:
            # A count that may be a word or a sentence.
            assert category == "count"
            continue
        answer = item.checks["expected"][0] if category == "choose" else item.reference
        assert admits(form, answer), (item.id, answer)


def test_free_forms_have_no_constraint() -> None:
    free = {item.category for item in lab_suite().items} - set(FORMS)
    assert free
    assert all(form_of(item) is None for item in lab_suite().items if item.category in free)


def test_what_holds_a_recipe_to_forms_is_its_name() -> None:
    assert is_formed(f"steered{FORMED}")
    assert not is_formed("steered")
    item: Item = next(item for item in lab_suite().items if item.category == "yes_no")
    assert form_of(item) == {"choice": ["Yes.", "No."]}
