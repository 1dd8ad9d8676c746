"""Sizes a recipe may not exceed; a document over one is refused before any work."""

from typing import Final

MAX_DOCUMENT_BYTES: Final = 256 * 1024
MAX_NAME_CHARS: Final = 64
MAX_DESCRIPTION_BYTES: Final = 4 * 1024
MAX_RULES: Final = 64
# One stop string, banned string or token string, in UTF-8.
MAX_STRING_BYTES: Final = 1024
MAX_STOP_STRINGS: Final = 64
MAX_BANNED_STRINGS: Final = 64
# All strings of one stop or ban rule together: they become one automaton.
MAX_STRINGS_BYTES: Final = 8 * 1024
# A match of a stop pattern: so much text is held back.
MAX_PATTERN_BYTES: Final = 256
MAX_WEIGHTS: Final = 1000
MAX_FORCED_PHRASES: Final = 16
MAX_ABS_WEIGHT: Final = 10_000.0
MAX_EXAMPLES: Final = 64
# Examples to choose from; a file of them is as large as a document at most.
MAX_CHOICE: Final = 1000
MAX_EXAMPLE_BYTES: Final = 16 * 1024
MAX_MARKER_CHARS: Final = 64
MAX_TOKENS: Final = 1_000_000
DEFAULT_MAX_TOKENS: Final = 256
