"""Say of every quarantined file which film is kept under its UID: what holds the film holds the file."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    kept = "SELECT id FROM instances WHERE instances.sop_instance_uid = quarantine.sop_instance_uid"
    op.execute(f"UPDATE quarantine SET instance_id = ({kept}) WHERE instance_id IS NULL")  # noqa: S608 - no value of anybody's


def downgrade() -> None:
    pass  # the column was there before
