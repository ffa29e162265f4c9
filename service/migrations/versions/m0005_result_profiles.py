"""Add what is known of each destination: the profile a person chose for it, the SOP classes it accepts."""

import sqlalchemy as sa
from alembic import op

from service.tables import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "profile_choices",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("profile", sa.JSON(), nullable=False),
        sa.Column("chosen_at", UtcDateTime(), nullable=False),
        sa.Column("chosen_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_profile_choices")),
    )
    op.create_table(
        "negotiated",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("sop_classes", sa.Text(), nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_negotiated")),
    )


def downgrade() -> None:
    op.drop_table("negotiated")
    op.drop_table("profile_choices")
