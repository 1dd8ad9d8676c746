"""The optional packages of `bosal`: what to install for a command that misses some."""

__all__ = ["missing"]


def missing(what: str, extra: str, error: ImportError) -> str:
    """Say on one line what `what` could not import, and what brings it."""
    module = error.name or error
    return f"{what} needs packages that are not installed ({module}): pip install 'bosal[{extra}]'"
