"""Pools of cartridges."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Revision 0010."""
    op.create_table(
        "pools",
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("crc32c", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_pools"),
        sqlite_with_rowid=False,
    )
