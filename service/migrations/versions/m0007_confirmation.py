"""Tell what is proved from what was accepted: storage commitment and read-back."""

import sqlalchemy as sa
from alembic import op

from service.tables import UtcDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("confirmed_at", UtcDateTime(), nullable=True))
        batch_op.create_index("ix_jobs_unconfirmed", ["state", "confirmed_at"], unique=False)
    with op.batch_alter_table("result_objects", schema=None) as batch_op:
        batch_op.add_column(sa.Column("confirm_after", UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column("confirmed_at", UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column("confirmed_by", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("transaction_uid", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("failure_reason", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("checks", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("resends", sa.Integer(), nullable=False, server_default="0"))
        batch_op.create_index(batch_op.f("ix_result_objects_transaction_uid"), ["transaction_uid"], unique=False)
        batch_op.create_index("ix_result_objects_unproved", ["destination", "state", "confirm_after"], unique=False)
    op.create_table(
        "commitments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("transaction_uid", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("objects", sa.Integer(), nullable=False),
        sa.Column("asked_for", sa.JSON(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("settled_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitments")),
        sa.UniqueConstraint("transaction_uid", "peer", name=op.f("uq_commitments_transaction_uid_peer")),
    )
    with op.batch_alter_table("commitments", schema=None) as batch_op:
        batch_op.create_index("ix_commitments_due", ["role", "state", "due_at"], unique=False)
