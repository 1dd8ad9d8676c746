"""Recipes as the command line names them: known to the server, or a file."""

from dataclasses import dataclass
from pathlib import Path

from bosal_lab.evaluation_errors import ArmError

__all__ = ["RecipeFile", "read_recipe"]

_ENDS = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe as its author wrote it; the server alone reads it, as it reads everybody's."""

    # Where the text names none.
    name: str
    text: str


def read_recipe(name: str) -> str | RecipeFile:
    """Return a name as it is, and of a file its text, named after the file."""
    if not name.endswith(_ENDS):
        return name
    path = Path(name)
    try:
        return RecipeFile(path.stem, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArmError(f"recipe file {path}: {error}") from error
