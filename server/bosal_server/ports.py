"""Whether a port is free, found out before anything is loaded."""

import socket

from bosal_server.config import InvalidConfig


def check_port(host: str, port: int) -> None:
    """Bind an address and let it go.

    Raises:
        InvalidConfig: nobody can listen there, or somebody does.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, ValueError) as error:
            # A ValueError if it could be no host's name.
            cause = getattr(error, "strerror", None) or error
            raise InvalidConfig(f"cannot listen at {host}:{port}: {cause}") from None
