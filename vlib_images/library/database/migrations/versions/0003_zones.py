"""Zones: which principals see which devices."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Revision 0003."""
    op.create_table(
        "zones",
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("crc32c", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_zones"),
        sqlite_with_rowid=False,
    )
