"""The suites that have a name, and how a scorer of one's own is found."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from bosal_lab.evaluation_errors import ArmError
from bosal_lab.item import Scorer, Suite

__all__ = ["SUITES", "load_scorer", "load_suite"]


def _lab(argument: str) -> Suite:
    from bosal_lab.suite import lab_suite

    if argument:
        raise ArmError("suite lab takes no file; it belongs to the shipped models")
    return lab_suite()


def _ifeval(argument: str) -> Suite:
    from bosal_lab.ifeval import read_ifeval

    if not argument:
        raise ArmError("suite ifeval takes its data file: --suite ifeval:FILE")
    return read_ifeval(Path(argument))


# Made when asked for: a suite may need an extra of its own.
SUITES: Mapping[str, Callable[[str], Suite]] = {"lab": _lab, "ifeval": _ifeval}


def load_suite(name: str) -> Suite:
    """Return a suite by `NAME` or `NAME:FILE`."""
    kind, _, argument = name.partition(":")
    if kind not in SUITES:
        raise ArmError.unknown("suite", kind, SUITES)
    return SUITES[kind](argument)


def load_scorer(name: str) -> Scorer:
    """Return the scorer an importable `MODULE:NAME` holds; a class is called."""
    module, colon, attribute = name.partition(":")
    try:
        if not colon:
            raise ImportError("it is not of the form MODULE:NAME")
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ArmError(f"scorer {name!r}: {error}") from error
    scorer: Scorer = found() if isinstance(found, type) else found
    if not (hasattr(scorer, "score") and hasattr(scorer, "version")):
        raise ArmError(f"scorer {name!r} has no score() or no version")
    return scorer
