"""Experiments as documents people write, and as the wire's messages."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration

from bosal.v1 import experiment_pb2 as pb
from bosal_client.documents import recipe_message
from bosal_client.errors import InvalidRequest

__all__ = ["experiment_message", "share"]

_PPM = 1_000_000
_DAY = 86_400
# More than any server keeps.
_MAX_DAYS = 1_000_000

_EXPERIMENT = frozenset(
    {
        "name", "description", "unit_kind", "variants", "metrics", "namespace", "alpha",
        "planned_units", "min_units", "method", "coverage", "retention_days",
        "text_retention_days", "max_failures_per_minute", "shadows", "shadow_share",
        "compare_draws",
    }
)  # fmt: skip
_VARIANT = frozenset({"key", "recipe", "weight", "control"})
_SHADOW = frozenset({"key", "recipe"})
_METRIC = frozenset(
    {
        "name", "kind", "outcome", "denominator", "level", "threshold", "direction", "role",
        "margin", "relative_margin", "covariate",
    }
)  # fmt: skip
_NAMESPACE = frozenset({"name", "low", "high"})


# What a document may hold for a field of the wire, and how that is said.
_WHOLE = (int, "a whole number")
_TYPES: Mapping[int, tuple[Any, str]] = {
    FieldDescriptor.CPPTYPE_STRING: (str, "a text (quote what looks like a number)"),
    FieldDescriptor.CPPTYPE_BOOL: (bool, "true or false"),
    FieldDescriptor.CPPTYPE_DOUBLE: (int | float, "a number"),
    FieldDescriptor.CPPTYPE_INT32: _WHOLE,
    FieldDescriptor.CPPTYPE_UINT32: _WHOLE,
    FieldDescriptor.CPPTYPE_INT64: _WHOLE,
    FieldDescriptor.CPPTYPE_UINT64: _WHOLE,
}


def experiment_message(document: Mapping[str, Any]) -> pb.Experiment:
    """Write a document as an experiment.

    Shares (`weight`, `coverage`, a namespace's `low` and `high`) are numbers from 0 to 1, spans
    are days; enumerations are their names in small letters.

    Raises:
        InvalidRequest: a field is unknown, or of the wrong kind; `field` says which.
    """
    _known(document, _EXPERIMENT, "")
    message = pb.Experiment()
    for name in ("name", "description", "unit_kind"):
        _set(message, name, document, name)
    for name in ("alpha", "planned_units", "min_units", "max_failures_per_minute"):
        _set(message, name, document, name)
    for index, one in enumerate(_list(document, "variants")):
        _variant(message.variants.add(), one, f"variants[{index}]", _VARIANT)
    for index, one in enumerate(_list(document, "shadows")):
        _variant(message.shadows.add(), one, f"shadows[{index}]", _SHADOW)
    for index, one in enumerate(_list(document, "metrics")):
        _metric(message.metrics.add(), one, f"metrics[{index}]")
    if "method" in document:
        method = _enum(pb.AnalysisMethod, "ANALYSIS_METHOD_", document["method"], "method")
        message.method = pb.AnalysisMethod.ValueType(method)
    if "shadow_share" in document:
        message.shadow_share_ppm = share(document["shadow_share"], "shadow_share")
    _set(message, "compare_draws", document, "compare_draws")
    if "coverage" in document:
        message.coverage_ppm = share(document["coverage"], "coverage")
    if "namespace" in document:
        space = _mapping(document["namespace"], "namespace")
        _known(space, _NAMESPACE, "namespace")
        _set(message.namespace, "name", space, "namespace.name")
        message.namespace.low_ppm = share(space.get("low", 0), "namespace.low")
        message.namespace.high_ppm = share(space.get("high", 1), "namespace.high")
    for name in ("retention", "text_retention"):
        if f"{name}_days" in document:
            days = document[f"{name}_days"]
            getattr(message, name).CopyFrom(_days(days, f"{name}_days"))
    return message


def _variant(message: pb.Variant, document: Any, field: str, fields: Iterable[str]) -> None:
    document = _mapping(document, field)
    _known(document, fields, field)
    _set(message, "key", document, f"{field}.key")
    recipe = document.get("recipe", "")
    if isinstance(recipe, str):
        message.recipe = recipe
    else:
        recipe = _mapping(recipe, f"{field}.recipe")
        message.inline_recipe.CopyFrom(recipe_message(recipe, f"{field}.recipe"))
    message.weight_ppm = share(document.get("weight", 0), f"{field}.weight")
    if "control" in document:
        if not isinstance(document["control"], bool):
            raise InvalidRequest(f"{field}.control: true or false", field=f"{field}.control")
        message.is_control = document["control"]


def _metric(message: pb.Metric, document: Any, field: str) -> None:
    document = _mapping(document, field)
    _known(document, _METRIC, field)
    for name in ("name", "outcome", "denominator", "covariate", "level", "threshold", "margin"):
        _set(message, name, document, f"{field}.{name}")
    if "relative_margin" in document:
        message.margin = _number(document["relative_margin"], f"{field}.relative_margin")
        message.is_margin_relative = True
    for name, enum, prefix in (
        ("kind", pb.MetricKind, "METRIC_KIND_"),
        ("direction", pb.MetricDirection, "METRIC_DIRECTION_"),
        ("role", pb.MetricRole, "METRIC_ROLE_"),
    ):
        if name in document:
            setattr(message, name, _enum(enum, prefix, document[name], f"{field}.{name}"))


def _set(message: Any, name: str, document: Mapping[str, Any], field: str) -> None:
    leaf = field.rpartition(".")[2]
    if leaf not in document:
        return
    value = document[leaf]
    kind, what = _TYPES[message.DESCRIPTOR.fields_by_name[name].cpp_type]
    if kind is int and isinstance(value, float) and value.is_integer():
        # 1e4 is a whole number too.
        value = int(value)
    is_right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not is_right:
        raise InvalidRequest(f"{field}: {what}, not {value!r:.60}", field=field)
    try:
        setattr(message, name, value)
    except ValueError as error:
        raise InvalidRequest(f"{field}: {error}", field=field) from None


def _known(document: Mapping[str, Any], names: Iterable[str], field: str) -> None:
    for name in document:
        if name not in names:
            close = get_close_matches(str(name), sorted(names), n=1, cutoff=0.5)
            what = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(names))}"
            where = f"{field}.{name}" if field else str(name)
            raise InvalidRequest(f"{where}: no such field, {what}", field=where)


def _list(document: Mapping[str, Any], field: str) -> list[Any]:
    found = document.get(field, [])
    if not isinstance(found, list):
        raise InvalidRequest(f"{field}: must be a list", field=field)
    return found


def _mapping(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{field}: must be a mapping of names to values", field=field)
    return value


def _number(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{field}: must be a number", field=field)
    return float(value)


def share(value: Any, field: str) -> int:
    """Write a share from 0 to 1 in millionths, as the wire has it."""
    number = _number(value, field)
    if not 0 <= number <= 1:
        raise InvalidRequest(f"{field}: a share from 0 to 1, not {value}", field=field)
    return round(number * _PPM)


def _days(value: Any, field: str) -> Duration:
    days = _number(value, field)
    if not 0 <= days <= _MAX_DAYS:
        raise InvalidRequest(f"{field}: a number of days, not {value}", field=field)
    return Duration(seconds=round(days * _DAY))


def _enum(enum: Any, prefix: str, value: Any, field: str) -> int:
    names = [name.removeprefix(prefix).lower() for name in enum.keys()[1:]]
    if value not in names:
        raise InvalidRequest(f"{field}: one of {', '.join(names)}, not {value!r}", field=field)
    return int(enum.Value(prefix + value.upper()))
