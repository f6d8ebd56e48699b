"""The inventory, what logical units keep, and the audit record."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Revision 0001."""
    op.create_table(
        "inventory",
        sa.Column("barcode", sa.String(32), nullable=False),
        sa.Column("element_type", sa.SmallInteger),
        sa.Column("element_index", sa.Integer),
        sa.Column("source_type", sa.SmallInteger),
        sa.Column("source_index", sa.Integer),
        sa.Column("placed_by_operator", sa.Boolean, nullable=False),
        sa.Column("crc32c", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("barcode", name="pk_inventory"),
        sa.UniqueConstraint("element_type", "element_index", name="uq_inventory_element_type_element_index"),
        sqlite_with_rowid=False,
    )
    for name in ("reservations", "saved_mode_pages", "state"):
        op.create_table(
            name,
            sa.Column("namespace", sa.String(63), nullable=False),
            sa.Column("key", sa.String(255), nullable=False),
            sa.Column("document", sa.Text, nullable=False),
            sa.Column("crc32c", sa.BigInteger, nullable=False),
            sa.PrimaryKeyConstraint("namespace", "key", name=f"pk_{name}"),
            sqlite_with_rowid=False,
        )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False, autoincrement=True),
        sa.Column("at_microseconds", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
