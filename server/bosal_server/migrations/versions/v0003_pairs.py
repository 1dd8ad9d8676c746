"""Exposures beside what other variants make of them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "experiment_pairs",
        sa.Column("experiment", sa.Integer, nullable=False),
        sa.Column("exposure", sa.LargeBinary(16), nullable=False),
        sa.Column("variant", sa.SmallInteger, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("is_touched", sa.Boolean, nullable=False),
        sa.Column("position", sa.Integer, nullable=True),
        sa.Column("control_token", sa.LargeBinary, nullable=False),
        sa.Column("token", sa.LargeBinary, nullable=False),
        sa.Column("cause", sa.String(16), nullable=False),
        sa.Column("rules", sa.Text, nullable=False),
        sa.Column("outcomes", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint(
            "experiment", "exposure", "variant", name=op.f("pk_experiment_pairs")
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_experiment_pairs_newest",
        "experiment_pairs",
        ["experiment", "phase", "variant", "at"],
    )
