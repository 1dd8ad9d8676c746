"""The recipes users created, kept in the database in immutable versions."""

from sqlalchemy import BigInteger, Column, String, Table, Text

from bosal_server.database import METADATA

RECIPES = Table(
    "recipes",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("version", String(64), primary_key=True),
    # JSON, name and description included.
    Column("document", Text, nullable=False),
    # Of a name's versions that are not archived, the one with the highest number is in force.
    Column("number", BigInteger, nullable=False),
    # The topic's revision when this row last changed.
    Column("revision", BigInteger, nullable=False),
    # Microseconds since 1970.
    Column("created_at", BigInteger, nullable=False),
    Column("archived_at", BigInteger),
)
