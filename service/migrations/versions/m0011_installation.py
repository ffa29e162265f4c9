"""Keep the identifier of the installation where every one of its processes finds it."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("device_uid", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("installation")
