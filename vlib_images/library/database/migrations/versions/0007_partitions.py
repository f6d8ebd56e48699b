"""Partitions: which slots and drives make which libraries."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Revision 0007."""
    op.create_table(
        "partitions",
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("crc32c", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_partitions"),
        sqlite_with_rowid=False,
    )
