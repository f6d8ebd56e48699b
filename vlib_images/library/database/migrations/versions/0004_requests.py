"""Requests for drives and volumes."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Revision 0004."""
    op.create_table(
        "requests",
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("crc32c", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_requests"),
        sqlite_with_rowid=False,
    )
