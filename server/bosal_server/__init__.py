"""The Bosal server: engine, service, metrics and command line.

`Engine` is all of it inside one process, for notebooks.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bosal_server.in_process import Engine

__all__ = ["Engine"]


def __getattr__(name: str) -> object:
    """Import the engine when somebody asks for it: it brings torch, and `serve --help` does not."""
    if name == "Engine":
        from bosal_server.in_process import Engine

        return Engine
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
