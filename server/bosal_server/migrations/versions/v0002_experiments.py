"""Experiments: what they are, what was recorded, and the sums over units."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
        sa.UniqueConstraint("name", name=op.f("uq_experiments_name")),
    )
    op.create_table(
        "experiment_key",
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_experiment_key")),
    )
    op.create_table(
        "experiment_audit",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("experiment", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiment_audit")),
    )
    op.create_table(
        "experiment_exposures",
        sa.Column("experiment", sa.Integer, nullable=False),
        sa.Column("id", sa.LargeBinary(16), nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("unit", sa.LargeBinary(16), nullable=False),
        sa.Column("variant", sa.SmallInteger, nullable=False),
        sa.Column("is_forced", sa.Boolean, nullable=False),
        sa.Column("recipe_version", sa.String(64), nullable=False),
        sa.Column("model_digest", sa.String(64), nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("instruction_tokens", sa.Integer, nullable=False),
        sa.Column("instruction", sa.LargeBinary(16), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("experiment", "id", name=op.f("pk_experiment_exposures")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_experiment_exposures_unit", "experiment_exposures", ["experiment", "unit"])
    op.create_table(
        "experiment_completions",
        sa.Column("experiment", sa.Integer, nullable=False),
        sa.Column("exposure", sa.LargeBinary(16), nullable=False),
        sa.Column("outcomes", sa.Text, nullable=False),
        sa.Column("finish_reason", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("experiment", "exposure", name=op.f("pk_experiment_completions")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "experiment_outcomes",
        sa.Column("experiment", sa.Integer, nullable=False),
        sa.Column("key", sa.LargeBinary(16), nullable=False),
        sa.Column("exposure", sa.LargeBinary(16), nullable=True),
        sa.Column("unit", sa.LargeBinary(16), nullable=True),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("is_orphan", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("experiment", "key", name=op.f("pk_experiment_outcomes")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_experiment_outcomes_unit", "experiment_outcomes", ["experiment", "unit"])
    op.create_index(
        "ix_experiment_outcomes_orphans",
        "experiment_outcomes",
        ["experiment", "exposure"],
        sqlite_where=sa.text("is_orphan"),
        postgresql_where=sa.text("is_orphan"),
    )
    op.create_table(
        "experiment_units",
        sa.Column("experiment", sa.Integer, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("unit", sa.LargeBinary(16), nullable=False),
        sa.Column("variant", sa.SmallInteger, nullable=False),
        sa.Column("is_mixed", sa.Boolean, nullable=False),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("covariate", sa.Float, nullable=False),
        sa.Column("tallies", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("experiment", "phase", "unit", name=op.f("pk_experiment_units")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "experiment_totals",
        sa.Column("experiment", sa.Integer, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("variant", sa.SmallInteger, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("numbers", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint(
            "experiment", "phase", "variant", "name", name=op.f("pk_experiment_totals")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "experiment_snapshots",
        sa.Column("experiment", sa.Integer, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("units", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint(
            "experiment", "phase", "units", name=op.f("pk_experiment_snapshots")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "experiment_texts",
        sa.Column("experiment", sa.Integer, nullable=False),
        sa.Column("exposure", sa.LargeBinary(16), nullable=False),
        sa.Column("instruction", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("experiment", "exposure", name=op.f("pk_experiment_texts")),
    )
    op.create_index(op.f("ix_experiment_texts_expires"), "experiment_texts", ["expires"])
    op.execute("INSERT INTO revisions (topic, number) VALUES ('experiments', 0)")
