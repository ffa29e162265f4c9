"""Keep what counters had counted of rows that retention removes, so that they never fall."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("counter", sa.Text(), primary_key=True),
        sa.Column("label", sa.Text(), primary_key=True),
        sa.Column("value", sa.Double(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("tallies")
