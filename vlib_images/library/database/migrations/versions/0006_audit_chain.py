"""The chain of hashes over the audit record; idempotency keys."""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Revision 0006."""
    op.add_column("events", sa.Column("hash", sa.String(64), nullable=False, server_default=""))
    op.create_table(
        "audit_marks",
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_audit_marks"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("caller", sa.String(255), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("answer", sa.LargeBinary),
        sa.PrimaryKeyConstraint("caller", "key", name="pk_idempotency_keys"),
        sqlite_with_rowid=False,
    )
    _chain_what_is_there(op.get_bind())


def _chain_what_is_there(connection: sa.Connection) -> None:
    """Events of before are numbered without gaps, but for those that were pruned at the beginning."""
    names = ("id", "at_microseconds", "actor", "action", "subject", "details", "hash")
    events = sa.table("events", *(sa.column(name) for name in names))
    marks = sa.table("audit_marks", sa.column("name"), sa.column("number"), sa.column("hash"))
    rows = connection.execute(sa.select(events).order_by(events.c.id)).all()
    anchor, before = (rows[0].id - 1 if rows else 0), "0" * 64
    chained = []
    for row in rows:
        before = hashlib.sha256(json.dumps([before, *row[:-1]], separators=(",", ":")).encode()).hexdigest()
        chained.append({"number": row.id, "chained": before})
    if chained:
        statement = sa.update(events).where(events.c.id == sa.bindparam("number"))
        connection.execute(statement.values(hash=sa.bindparam("chained")), chained)
    head = rows[-1].id if rows else 0
    connection.execute(
        sa.insert(marks),
        [
            {"name": "anchor", "number": anchor, "hash": "0" * 64},
            {"name": "head", "number": head, "hash": before},
        ],
    )
