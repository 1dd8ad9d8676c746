"""The operator's folder of recipes: read as a whole, and again when its files change."""

from collections.abc import Mapping
from pathlib import Path

from bosal_decoding.recipe import Recipe, load_folder

# What tells one state of a folder from another: each file's name, time, size and inode.
_Stamp = frozenset[tuple[str, int, int, int]]


class RecipeFolder:
    """One folder. It is never written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = self._look()
        self._seen = self._stamp

    def read(self) -> Mapping[str, Recipe]:
        """Read every recipe.

        Raises:
            InvalidRecipe: one of the files is wrong; its name is in the message.
        """
        return load_folder(self.path)

    def has_changed(self) -> bool:
        """Tell, once, that files have changed and have now been at rest since the last call.

        A file that is still being written is not read.
        """
        now = self._look()
        is_at_rest, self._seen = now == self._seen, now
        if not is_at_rest or now == self._stamp:
            return False
        self._stamp = now
        return True

    def _look(self) -> _Stamp:
        try:
            return frozenset(
                (entry.name, status.st_mtime_ns, status.st_size, status.st_ino)
                for entry in self.path.iterdir()
                if entry.is_file()
                for status in (entry.stat(),)
            )
        except OSError:  # Gone, or a file went while it was looked at.
            return frozenset()
