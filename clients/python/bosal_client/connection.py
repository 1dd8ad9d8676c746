"""What both clients' connections are told: where to, for how long, on whose behalf."""

import json
import math

from bosal_client.errors import InvalidRequest

__all__ = ["DEFAULT_SERVER", "channel_options", "checked_timeout", "metadata"]

DEFAULT_SERVER = "127.0.0.1:50051"

# UNAVAILABLE before the first message is tried again; the server may have begun, and knows a
# request that comes twice by its request id.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": "bosal.v1.GenerationService"},
                    {"service": "bosal.v1.RecipeService"},
                    {"service": "bosal.v1.ModelService"},
                    {"service": "bosal.v1.ExperimentService"},
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)

_IDLE_MS = 300_000
# The server takes a ping each half minute.
_KEEPALIVE_MS = 60_000
_KEEPALIVE_TIMEOUT_MS = 20_000
_LOOPBACK = ("127.", "localhost", "[::1]", "ipv4:127.", "unix:")
_URLS = ("http://", "https://", "grpc://", "grpcs://")
# gRPC counts nanoseconds in 64 bits; a later deadline would have passed already.
_LONGEST_SECONDS = 30 * 365 * 86_400.0


def channel_options(server: str) -> list[tuple[str, str | int]]:
    """Options of a channel to `server`.

    Raises:
        InvalidRequest: it is no address of a gRPC server.
    """
    if not server:
        raise InvalidRequest("the server's address is empty", field="server")
    if server.startswith(_URLS):
        address = server.partition("://")[2].rstrip("/")
        raise InvalidRequest(
            f"the server is named HOST:PORT, not as a URL: {address!r:.100}", field="server"
        )
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.max_receive_message_length", -1),
        # Leaves before the server closes a connection that nobody uses.
        ("grpc.client_idle_timeout_ms", _IDLE_MS),
        # A call without a timeout ends when nothing is at the other end any more.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        # Which of the two counts depends on grpc's version.
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if server.startswith(_LOOPBACK):
        # A proxy named in the environment cannot reach this machine's own loopback.
        options.append(("grpc.enable_http_proxy", 0))
    return options


def metadata(api_key: str) -> tuple[tuple[str, str], ...]:
    """Headers of every call: whose it is.

    Raises:
        InvalidRequest: no header may hold the key, which is not repeated.
    """
    if not api_key:
        return ()
    for place, character in enumerate(api_key):
        if not "!" <= character <= "~":
            raise InvalidRequest(
                f"the API key holds a character that no header may, at {place} of {len(api_key)}",
                field="api_key",
            )
    return (("authorization", f"Bearer {api_key}"),)


def checked_timeout(timeout: float | None) -> float | None:
    """Return a timeout as gRPC takes it; None waits as long as it takes.

    Raises:
        InvalidRequest: it is no number of seconds.
    """
    if timeout is None:
        return None
    if not isinstance(timeout, int | float) or math.isnan(timeout):
        raise InvalidRequest(f"timeout: seconds, or None, not {timeout!r:.60}", field="timeout")
    return float(timeout) if timeout < _LONGEST_SECONDS else None
