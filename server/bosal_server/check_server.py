"""`bosal serve --check`: what a configuration would open, to whom, and whether it may start."""

from rich.console import Console
from rich.table import Column, Table

from bosal_server.config import InvalidConfig
from bosal_server.file_limit import connections
from bosal_server.options import Resolved
from bosal_server.security import exposure
from bosal_server.security.keys import load_keys
from bosal_server.security.tls import TlsCredentials


def report(resolved: Resolved) -> int:
    """Print ports, certificates and keys; return 0 if a server could start like this, else 1."""
    config = resolved.config
    console = Console(highlight=False)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    table = Table("port", Column("address", no_wrap=True), "reached from", "transport", "open to")
    for port in exposure.listeners(config):
        table.add_row(port.what, port.address, port.reach, port.transport, port.access)
    console.print(table)
    try:
        exposure.check(config)
        console.print(
            f"at most {connections(config.max_connections):,} connections, each closed after "
            f"{config.max_connection_idle_seconds:g} s without a call"
        )
        if (tls := TlsCredentials.of(config)) is not None:
            found = Table("certificate", "good until", Column("file", overflow="fold"))
            for name, one in tls.certificates.items():
                found.add_row(
                    name.replace("_", " "), f"{one.ends:%Y-%m-%d %H:%M} UTC", str(one.file)
                )
            console.print(found)
            for warning in tls.warnings():
                errors.print(f"warning: {warning}", markup=False)
        if config.key_file is not None:
            keys = Table("key", "scopes", "choices at once", "tokens per minute", "until")
            keys.add_column("id", no_wrap=True)
            for key in load_keys(config.key_file):
                keys.add_row(
                    key.name,
                    ", ".join(sorted(key.scopes)),
                    _limit(key.max_choices),
                    _limit(key.tokens_per_minute),
                    "for ever" if key.expires is None else str(key.expires.date()),
                    key.id,
                )
            console.print(keys)
    except InvalidConfig as error:
        errors.print(f"error: {error}", markup=False)
        return 1
    if config.trust_remote_code:
        console.print("Python code that comes with a model is run: --trust-remote-code")
    return 0


def _limit(value: int | None) -> str:
    return "no limit" if value is None else f"{value:,}"
