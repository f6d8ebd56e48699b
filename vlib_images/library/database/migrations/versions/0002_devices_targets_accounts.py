"""What the library contains: devices, targets and accounts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Revision 0002."""
    for name in ("devices", "targets", "accounts"):
        op.create_table(
            name,
            sa.Column("name", sa.String(512), nullable=False),
            sa.Column("position", sa.Integer, nullable=False),
            sa.Column("document", sa.Text, nullable=False),
            sa.Column("crc32c", sa.BigInteger, nullable=False),
            sa.PrimaryKeyConstraint("name", name=f"pk_{name}"),
            sqlite_with_rowid=False,
        )
