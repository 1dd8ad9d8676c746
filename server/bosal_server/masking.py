"""URLs as they may be shown and logged."""

import re
from typing import Final

MASK: Final = "********"
# From the colon behind the user's name to the last @, whatever the password holds.
_OF_USER: Final = re.compile(r"(://[^:@/?#]*:).*(@)", re.DOTALL)
_PARAMETER: Final = re.compile(
    r"([?&;][^=&;]*(?:password|secret|token)[^=&;]*=)[^&;#]*", re.IGNORECASE
)


def without_password(text: str) -> str:
    """Mask the passwords of a URL: behind its user's name, and among its parameters.

    Also of one that nothing could connect to, which is when it is shown to others.
    """
    if "://" not in text:
        return text
    return _PARAMETER.sub(rf"\1{MASK}", _OF_USER.sub(rf"\1{MASK}\2", text))
