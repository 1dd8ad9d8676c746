"""The base of everything a recipe document contains: strict, frozen, and clear about errors."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from bosal_decoding.errors import InvalidRecipe, Violation, shorten, suggestion
from bosal_decoding.limits import MAX_ABS_WEIGHT, MAX_STRING_BYTES


def _integral(value: object) -> object:
    # JSON and proto's Struct know only floats.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds a lone surrogate, which is not Unicode") from None
    return text


def at_most_bytes(limit: int) -> AfterValidator:
    def check(text: str) -> str:
        if len(_encodable(text).encode()) > limit:
            raise ValueError(f"longer than {limit} bytes")
        return text

    return AfterValidator(check)


def _key_is_text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("a token string must be text; YAML needs quotes around it")
    return value


def _token_id(value: object) -> object:
    # The keys of a JSON object are text. A number of thousands of digits is no id, and Python
    # would refuse to read it in words of its own.
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        return int(value)
    return _integral(value)


def distinct_ids(value: object) -> object:
    if isinstance(value, Mapping) and len({_token_id(key) for key in value}) < len(value):
        raise ValueError("a token id is given twice")
    return value


# Behind the bounds in an Annotated, or they are missing from the JSON Schema.
whole = BeforeValidator(_integral)
Text = Annotated[str, AfterValidator(_encodable)]
# A string matched against text or spelled by a token.
Phrase = Annotated[str, Field(min_length=1), at_most_bytes(MAX_STRING_BYTES)]
TokenString = Annotated[Phrase, BeforeValidator(_key_is_text)]
TokenId = Annotated[int, Field(ge=0), BeforeValidator(_token_id)]
Weight = Annotated[float, Field(ge=-MAX_ABS_WEIGHT, le=MAX_ABS_WEIGHT)]


# What pydantic puts into a path: the mark of a mapping's key, the alternatives of a union.
_PYDANTICS: Final = re.compile(r"\[key\]|function-\w+\[.*\]|literal\[.*\]|constrained-\w+")


class Schema(BaseModel):
    """A part of a recipe document."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def read(cls, data: Mapping[str, Any], field: str) -> Self:
        """Validate plain data found at `field` of a document."""
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise InvalidRecipe(list(_violations(cls, error, field))) from None

    def set_fields(self) -> dict[str, Any]:
        """The fields the author set, as plain JSON data."""
        return self.model_dump(mode="json", exclude_unset=True)


def join_field(field: str, *path: str | int) -> str:
    """Extend a field path: names by dots, positions and odd keys in brackets."""
    for part in path:
        if isinstance(part, int):
            field = f"{field}[{part}]"
        elif part.isidentifier():
            field = f"{field}.{part}" if field else part
        else:
            field = f"{field}[{shorten(part)}]"
    return field


def _violations(model: type[Schema], error: ValidationError, field: str) -> Iterator[Violation]:
    # A typo explains the field that is missing, so it comes first.
    details = error.errors(include_url=False, include_input=False)
    messages: dict[str, list[str]] = {}
    for detail in sorted(details, key=lambda detail: detail["type"] != "extra_forbidden"):
        path = [part for part in detail["loc"] if not _PYDANTICS.fullmatch(str(part))]
        where = join_field(field, *path)
        messages.setdefault(where, []).append(_message(model, path, detail))
    for where, found in messages.items():
        # Several: none of a field's alternatives fits.
        yield Violation(field=where, message=" or ".join(dict.fromkeys(found)))


def _message(model: type[Schema], path: list[str | int], detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown field, {suggestion(str(path[-1]), _fields_at(model, path[:-1]))}"
    if kind == "missing":
        return "is required"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("too_short", "too_long") and context.get("field_type") == "Value":
        # A text behind a check of its own, which pydantic takes for a list.
        limit = context.get("min_length", context.get("max_length"))
        bound = "at least" if kind == "too_short" else "at most"
        return f"must have {bound} {limit} characters, not {context['actual_length']}"
    text = detail["msg"].replace("Tuple", "List").replace("tuple", "list")
    return text[0].lower() + text[1:]


def _fields_at(model: type[BaseModel], path: list[str | int]) -> list[str]:
    """The field names of the model that `path` leads to."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
