"""Where experiments keep what they know. A unit is its HMAC; times are seconds since 1970."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Text,
)

from bosal_server.database import METADATA

# What other processes watch for changes.
TOPIC = "experiments"

EXPERIMENTS = Table(
    "experiments",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("document", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    # Of the request that made it.
    Column("request_id", String(128), nullable=False),
)

# Of the key that units are stored under, what tells it from others.
KEY = Table(
    "experiment_key",
    METADATA,
    Column("fingerprint", String(64), primary_key=True),
)

AUDIT = Table(
    "experiment_audit",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("experiment", String(64), nullable=False),
    Column("at", Float, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("details", Text, nullable=False),
)

EXPOSURES = Table(
    "experiment_exposures",
    METADATA,
    Column("experiment", Integer, primary_key=True),
    Column("id", LargeBinary(16), primary_key=True),
    Column("phase", Integer, nullable=False),
    Column("unit", LargeBinary(16), nullable=False),
    # Index among the experiment's arms.
    Column("variant", SmallInteger, nullable=False),
    Column("is_forced", Boolean, nullable=False),
    Column("recipe_version", String(64), nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("instruction_tokens", Integer, nullable=False),
    Column("instruction", LargeBinary(16), nullable=False),
    Column("at", Float, nullable=False),
    Index("ix_experiment_exposures_unit", "experiment", "unit"),
    sqlite_with_rowid=False,
)

# What the server measured of a request, one row when it has ended.
COMPLETIONS = Table(
    "experiment_completions",
    METADATA,
    Column("experiment", Integer, primary_key=True),
    Column("exposure", LargeBinary(16), primary_key=True),
    # By outcome, JSON.
    Column("outcomes", Text, nullable=False),
    Column("finish_reason", String(64), nullable=False),
    Column("at", Float, nullable=False),
    sqlite_with_rowid=False,
)

# By unit, and of orphans alone by what they wait for.
UNIT_INDEX = "ix_experiment_outcomes_unit"
ORPHANS_INDEX = "ix_experiment_outcomes_orphans"

OUTCOMES = Table(
    "experiment_outcomes",
    METADATA,
    Column("experiment", Integer, primary_key=True),
    # Of the idempotency key, the first half of its SHA-256.
    Column("key", LargeBinary(16), primary_key=True),
    # Null: the outcome names its unit.
    Column("exposure", LargeBinary(16)),
    # Null: of an orphan that names an exposure.
    Column("unit", LargeBinary(16)),
    # 0: an orphan's.
    Column("phase", Integer, nullable=False),
    Column("name", String(64), nullable=False),
    Column("value", Float, nullable=False),
    Column("at", Float, nullable=False),
    Column("is_orphan", Boolean, nullable=False),
    Index(UNIT_INDEX, "experiment", "unit"),
    sqlite_with_rowid=False,
)
# There are few.
Index(
    ORPHANS_INDEX,
    OUTCOMES.c.experiment,
    OUTCOMES.c.exposure,
    sqlite_where=OUTCOMES.c.is_orphan,
    postgresql_where=OUTCOMES.c.is_orphan,
)

# Exposures beside what other variants make of them under the same noise.
PAIRS = Table(
    "experiment_pairs",
    METADATA,
    Column("experiment", Integer, primary_key=True),
    Column("exposure", LargeBinary(16), primary_key=True),
    # Place among the experiment's arms and, behind them, its shadows.
    Column("variant", SmallInteger, primary_key=True),
    Column("phase", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("is_touched", Boolean, nullable=False),
    # Null: the two are equal.
    Column("position", Integer),
    # Of the control and of the other; empty where that text had ended.
    Column("control_token", LargeBinary, nullable=False),
    Column("token", LargeBinary, nullable=False),
    Column("cause", String(16), nullable=False),
    # JSON.
    Column("rules", Text, nullable=False),
    # By outcome, JSON: [of the control, of the other].
    Column("outcomes", Text, nullable=False),
    Column("at", Float, nullable=False),
    Index("ix_experiment_pairs_newest", "experiment", "phase", "variant", "at"),
    sqlite_with_rowid=False,
)

UNITS = Table(
    "experiment_units",
    METADATA,
    Column("experiment", Integer, primary_key=True),
    Column("phase", Integer, primary_key=True),
    Column("unit", LargeBinary(16), primary_key=True),
    Column("variant", SmallInteger, nullable=False),
    # Seen in another variant too: dropped from the analysis.
    Column("is_mixed", Boolean, nullable=False),
    Column("requests", Integer, nullable=False),
    # Tokens of its first instruction.
    Column("covariate", Float, nullable=False),
    # By name, JSON: [number of values, their sum].
    Column("tallies", Text, nullable=False),
    sqlite_with_rowid=False,
)

# Sums over the units of an arm, kept up to date by differences.
TOTALS = Table(
    "experiment_totals",
    METADATA,
    Column("experiment", Integer, primary_key=True),
    Column("phase", Integer, primary_key=True),
    # -1: of the whole experiment. Below: what rounding left of the sums of variant -3 - this.
    Column("variant", SmallInteger, primary_key=True),
    # A metric, or "" for counts.
    Column("name", String(64), primary_key=True),
    # JSON.
    Column("numbers", Text, nullable=False),
    sqlite_with_rowid=False,
)

# Totals as they were, ever further apart.
SNAPSHOTS = Table(
    "experiment_snapshots",
    METADATA,
    Column("experiment", Integer, primary_key=True),
    Column("phase", Integer, primary_key=True),
    Column("units", BigInteger, primary_key=True),
    Column("at", Float, nullable=False),
    Column("document", Text, nullable=False),
    sqlite_with_rowid=False,
)

TEXTS = Table(
    "experiment_texts",
    METADATA,
    Column("experiment", Integer, primary_key=True),
    Column("exposure", LargeBinary(16), primary_key=True),
    Column("instruction", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("expires", Float, nullable=False, index=True),
)
