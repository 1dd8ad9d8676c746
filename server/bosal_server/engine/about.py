"""What log lines of the engine say they are about."""

from collections.abc import Mapping


def about(request_id: str) -> Mapping[str, str]:
    """Return the fields of a line about a request, by its id in the engine: `ID#NUMBER`."""
    return {"request_id": request_id.rpartition("#")[0] or request_id}
