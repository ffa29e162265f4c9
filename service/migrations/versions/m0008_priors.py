"""Keep the earlier bone ages that went into a report."""

import sqlalchemy as sa
from alembic import op

from service.tables import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_priors",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("priors", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_priors_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "destination", name=op.f("pk_job_priors")),
    )


def downgrade() -> None:
    op.drop_table("job_priors")
