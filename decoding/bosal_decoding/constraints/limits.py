"""Sizes a constraint may not exceed; one over them is refused before anything is compiled."""

from typing import Final

MAX_SPEC_BYTES: Final = 64 * 1024
MAX_REGEX_BYTES: Final = 8 * 1024
MAX_CHOICES: Final = 10_000
MAX_CHOICE_BYTES: Final = 256 * 1024  # of all of them
MAX_DEPTH: Final = 64
MAX_ENUM_VALUES: Final = 10_000
MAX_GRAMMAR_RULES: Final = 500
# The bound of one repetition, by backend: the others unroll it.
MAX_REPETITION: Final = 10_000
MAX_UNROLLED_REPETITION: Final = 500
# Nested bounds multiplied.
MAX_TOTAL_REPETITION: Final = 1_000_000
# A constraint whose text, and whose size with repetitions written out, are no more than these
# compiles without a trial.
MAX_CHEAP_BYTES: Final = 8 * 1024
MAX_CHEAP_SIZE: Final = 4096
# Wall-clock seconds and bytes of the process that compiles on trial.
COMPILE_SECONDS: Final = 2.0
COMPILE_SECONDS_UNROLLED: Final = 10.0
COMPILE_BYTES: Final = 2 << 30
MAX_WAITING: Final = 64
# Compiled programs kept for later requests.
CACHE_BYTES: Final = 256 << 20
# Seconds of one mask, and how many so slow a sequence may have.
SLOW_FILL_SECONDS: Final = 0.02
MAX_SLOW_FILLS: Final = 5
# Seconds of one search for a completion: of a running text, and of the first when it is compiled.
CLOSE_SECONDS: Final = 0.02
FIRST_CLOSE_SECONDS: Final = 0.2
# Bytes the search for a completion writes at most.
MAX_CLOSE_BYTES: Final = 1024
# Forced tokens taken in one step at most.
MAX_FORCED_TOKENS: Final = 32
