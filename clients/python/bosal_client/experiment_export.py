"""The command `bosal experiments export`: what was recorded, as rows of CSV or Parquet files."""

import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from bosal.v1 import experiment_pb2 as pb
from bosal_client.connection import DEFAULT_SERVER
from bosal_client.document_file import writing
from bosal_client.invocation import Server, signed_experiments

__all__ = ["export"]


def export(
    name: Annotated[str, typer.Argument(help="The experiment.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A .csv or .parquet file; one row an exposure.")
    ],
    outcomes_out: Annotated[
        Path | None, typer.Option("--outcomes", help="Another, one row a client's outcome.")
    ] = None,
    pairs_out: Annotated[
        Path | None,
        typer.Option("--pairs", help="Another, one row a request held against another variant."),
    ] = None,
    number: Annotated[int, typer.Option("--phase", min=0, help="0: all.")] = 0,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Write what was recorded as CSV or Parquet; units are HMACs.

    [bold]Example[/bold]

      bosal experiments export brevity --out exposures.parquet --outcomes outcomes.parquet
    """
    for file in filter(None, (out, outcomes_out, pairs_out)):
        if file.suffix not in (".csv", ".parquet"):
            raise typer.BadParameter(f"{file}: name a .csv or a .parquet file")
    exposures: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    with signed_experiments(server) as experiments:
        for part in experiments.export(name, phase=number):
            exposures += map(_exposure_row, part.exposures)
            outcomes += map(_outcome_row, part.outcomes)
            pairs += map(_pair_row, part.pairs)
    for flag, target, rows, blank in (
        ("--out", out, exposures, _exposure_row(pb.ExposureRecord())),
        ("--outcomes", outcomes_out, outcomes, _outcome_row(pb.OutcomeRecord())),
        ("--pairs", pairs_out, pairs, _pair_row(pb.PairRecord())),
    ):
        if target is not None:
            with writing(target, flag):
                _write(target, rows, blank)
    typer.echo(f"{len(exposures)} exposures, {len(outcomes)} outcomes, {len(pairs)} pairs")


def _exposure_row(record: pb.ExposureRecord) -> dict[str, Any]:
    return {
        "exposure_id": record.exposure_id,
        "phase": record.phase,
        "unit": record.unit,
        "variant": record.variant,
        "is_forced": record.reason == pb.ASSIGNMENT_REASON_FORCED,
        "recipe_version": record.recipe_version,
        "model_digest": record.model_digest,
        "seed": record.seed,
        "instruction_tokens": record.instruction_tokens,
        "at": record.at.ToJsonString(),
        "finish_reason": record.finish_reason,
        **{f"outcome.{name}": value for name, value in sorted(record.outcomes.items())},
    }


def _outcome_row(record: pb.OutcomeRecord) -> dict[str, Any]:
    return {
        "exposure_id": record.exposure_id,
        "phase": record.phase,
        "unit": record.unit,
        "name": record.name,
        "value": record.value,
        "at": record.at.ToJsonString(),
        "is_orphan": record.is_orphan,
    }


def _pair_row(record: pb.PairRecord) -> dict[str, Any]:
    return {
        "exposure_id": record.exposure_id,
        "phase": record.phase,
        "variant": record.variant,
        "is_shadow": record.is_shadow,
        "is_touched": record.is_touched,
        "position": record.position if record.HasField("position") else None,
        "control_token": record.control_token.decode("utf-8", "backslashreplace"),
        "token": record.token.decode("utf-8", "backslashreplace"),
        "cause": record.cause,
        "rules": json.dumps(list(record.rules)),
        "control_outcomes": json.dumps(dict(record.control_outcomes), sort_keys=True),
        "outcomes": json.dumps(dict(record.outcomes), sort_keys=True),
        "at": record.at.ToJsonString(),
    }


def _write(file: Path, rows: list[dict[str, Any]], columns: Iterable[str]) -> None:
    """Write rows as the file's suffix says: `columns`, and those that only some rows have."""
    names = list(dict.fromkeys(name for row in (columns, *rows) for name in row))
    if file.suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, names)
            writer.writeheader()
            writer.writerows(rows)
        return
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        sys.stderr.write("error: Parquet needs pyarrow: pip install 'bosal[parquet]'\n")
        raise typer.Exit(1) from None
    values = {name: [row.get(name) for row in rows] for name in names}
    parquet.write_table(pyarrow.table(values), file)
