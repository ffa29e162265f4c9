"""Let the digest of a data set name its function: what was received until now has one of SHA-256."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE instances RENAME COLUMN sha256 TO digest")
    op.execute("UPDATE instances SET digest = 'sha256:' || digest")


def downgrade() -> None:
    # A digest of BLAKE3 stays as it is: an earlier version would find other bytes under the same UID and keep both.
    op.execute("UPDATE instances SET digest = substr(digest, 8) WHERE digest LIKE 'sha256:%'")
    op.execute("ALTER TABLE instances RENAME COLUMN digest TO sha256")
