"""Exposures beside other variants: each pair written once, counted, and told to its unit.

In the totals a pair's counts are under `COUNTS_NAME`, and under `RULE_PREFIX` those of the rules
that parted it. A unit keeps, by variant, how many of its requests were held and how many touched,
and the sums of what programs measured on both sides.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sqlalchemy import Connection

from bosal_server.experiments.books import Books
from bosal_server.experiments.bulk import Bulk
from bosal_server.experiments.places import Place
from bosal_server.experiments.records import Entry, Pair, PairKind, Pairs
from bosal_server.experiments.tables import PAIRS

__all__ = ["COUNTS_NAME", "PAIR_COUNTS", "RULE_PREFIX", "post_pairs", "uncount_pairs"]

COUNTS_NAME = "!"
RULE_PREFIX = "!rule:"
PAIR_COUNTS = (
    "pairs", "equal", "RULE", "PROMPT", "NUMERICS", "ENDING", "positions", "touched", "unknown"
)  # fmt: skip
_MAX_NAME = 64


def post_pairs(
    connection: Connection,
    books: Books,
    entry: Entry,
    told: Sequence[Pairs],
    places: Mapping[bytes, Place],
) -> None:
    """Write the pairs of exposures that are known and not forced, each once."""
    bulk = Bulk(connection)
    by = (PAIRS.c.exposure, PAIRS.c.variant)
    wanted = {(one.exposure, pair.variant) for one in told for pair in one.pairs}
    known = {
        (bytes(exposure), variant)
        for exposure, variant in bulk.find(by, entry.id, by, sorted(wanted))
    }
    rows = []
    for one in told:
        place = places.get(one.exposure)
        if place is None or place.is_forced:
            continue
        for pair in one.pairs:
            if (one.exposure, pair.variant) in known:
                continue
            known.add((one.exposure, pair.variant))
            _count(books, entry, place.phase, pair, 1)
            row = books.get(entry, place.phase, place.unit)
            if row is not None:
                row.hold(pair)
            if pair.is_known:
                rows.append(_row(entry, one, place, pair))
    bulk.insert(PAIRS, rows)


def uncount_pairs(
    connection: Connection, books: Books, entry: Entry, exposures: Iterable[bytes]
) -> None:
    """Take the pairs of exposures that are to be deleted out of the counts."""
    bulk = Bulk(connection)
    for phase, pair in _read(bulk, entry, exposures):
        _count(books, entry, phase, pair, -1)


def _read(bulk: Bulk, entry: Entry, exposures: Iterable[bytes]) -> Iterator[tuple[int, Pair]]:
    columns = PAIRS.c
    names = (
        columns.phase, columns.kind, columns.variant, columns.is_touched, columns.position,
        columns.cause, columns.rules,
    )  # fmt: skip
    for phase, kind, variant, touched, position, cause, rules in bulk.find(
        names, entry.id, (columns.exposure,), exposures
    ):
        yield (
            phase,
            Pair(
                kind=PairKind(kind),
                variant=variant,
                is_touched=bool(touched),
                position=position,
                cause=cause,
                rules=tuple(json.loads(rules)),
            ),
        )


def _row(entry: Entry, one: Pairs, place: Place, pair: Pair) -> tuple[object, ...]:
    return (
        entry.id,
        one.exposure,
        pair.variant,
        place.phase,
        pair.kind.value,
        pair.is_touched,
        pair.position,
        pair.control_token,
        pair.token,
        pair.cause,
        json.dumps(pair.rules),
        json.dumps(pair.outcomes, separators=(",", ":")),
        one.at,
    )


def _count(books: Books, entry: Entry, phase: int, pair: Pair, sign: int) -> None:
    amounts = dict.fromkeys(PAIR_COUNTS, 0)
    amounts["touched"] = int(pair.is_touched)
    if pair.is_known:
        amounts["pairs"] = 1
        amounts["equal" if pair.position is None else pair.cause] = 1
        amounts["positions"] = pair.position or 0
    else:
        amounts["unknown"] = 1
    books.add(
        entry, phase, pair.variant, COUNTS_NAME, [sign * amount for amount in amounts.values()]
    )
    for rule in pair.rules:
        books.add(entry, phase, pair.variant, f"{RULE_PREFIX}{rule}"[:_MAX_NAME], [sign])
