"""Fair turns, order per patient, paused queues, circuit breakers, refusals; an index for every question."""

import sqlalchemy as sa
from alembic import op

from service.tables import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PARTIAL = {
    "ix_jobs_parked": (["not_before"], "parked", "parked = 1"),
    "ix_jobs_leased": (["lease_expires_at"], "lease_token IS NOT NULL", None),
    "ix_jobs_deadline": (["deadline"], "deadline IS NOT NULL AND NOT overdue", "deadline IS NOT NULL AND overdue = 0"),
    "ix_jobs_overdue": (["state_since"], "overdue", "overdue = 1"),
    "ix_jobs_subject": (["subject", "id"], "subject IS NOT NULL", None),
    "ix_jobs_cause": (["state", "cause_code", "state_since"], "cause_code IS NOT NULL", None),
}
WHOLE = {
    "ix_jobs_claim": ["state", "parked", "priority", "turn", "id"],
    "ix_jobs_unpublished": ["state", "parked", "published_at"],
    "ix_jobs_listed": ["state", "id"],
    "ix_jobs_age": ["state", "state_since"],
    "ix_jobs_turn": ["priority", "turn"],
    "ix_jobs_turn_of_peer": ["peer", "priority", "turn"],
}


def upgrade() -> None:
    op.create_table(
        "queue_controls",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("queue", name=op.f("pk_queue_controls")),
    )
    op.create_table(
        "breakers",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=True),
        sa.Column("probe_at", UtcDateTime(), nullable=True),
        sa.Column("cause_code", sa.Text(), nullable=True),
        sa.Column("cause_text", sa.Text(), nullable=True),
        sa.Column("next_action", sa.Text(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_breakers")),
    )
    op.create_table(
        "refusals",
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("next_action", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("first_at", UtcDateTime(), nullable=False),
        sa.Column("last_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("code", name=op.f("pk_refusals")),
    )
    with op.batch_alter_table("instances") as batch:
        batch.add_column(sa.Column("accession_number", sa.Text(), nullable=True))
        batch.create_index(batch.f("ix_instances_accession_number"), ["accession_number"])
    with op.batch_alter_table("jobs") as batch:
        batch.drop_index("ix_jobs_due")
        batch.drop_index("ix_jobs_unpublished")
        batch.add_column(sa.Column("peer", sa.Text(), nullable=False, server_default=""))
        batch.add_column(sa.Column("turn", sa.BigInteger(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("subject", sa.Text(), nullable=True))
        batch.add_column(sa.Column("parked", sa.Boolean(), nullable=False, server_default=sa.false()))
    # Jobs that are there already keep the order of their reception, and those that wait for a time go on waiting for it.
    op.execute(
        "UPDATE jobs SET turn = id, parked = (state IN ('RECEIVED', 'PREPARED', 'INFERRED') AND lease_token IS NULL AND "
        "not_before > updated_at), peer = (SELECT calling_ae_title FROM instances WHERE instances.id = jobs.instance_id)"
    )
    for name, columns in WHOLE.items():
        op.create_index(name, "jobs", columns)
    for name, (columns, where, sqlite) in PARTIAL.items():
        op.create_index(name, "jobs", columns, sqlite_where=sa.text(sqlite or where), postgresql_where=sa.text(where))


def downgrade() -> None:
    for name in (*WHOLE, *PARTIAL):
        op.drop_index(name, "jobs")
    with op.batch_alter_table("jobs") as batch:
        for column in ("parked", "subject", "turn", "peer"):
            batch.drop_column(column)
        batch.create_index("ix_jobs_due", ["state", "not_before"])
        batch.create_index("ix_jobs_unpublished", ["published_at", "state"])
    with op.batch_alter_table("instances") as batch:
        batch.drop_index(batch.f("ix_instances_accession_number"))
        batch.drop_column("accession_number")
    for table in ("refusals", "breakers", "queue_controls"):
        op.drop_table(table)
