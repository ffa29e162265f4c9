"""Remember which step's message was handed to the broker, so that what a broker loses is sent again."""

import datetime as dt
from functools import cache
from typing import Final

from sqlalchemy import Select, bindparam, select

from service.queue.leases import Leases, ready
from service.rows import changed
from service.tables import Job, State

PUBLISHED_STATES: Final = (State.PREPARED, State.INFERRED)  # the next step of these is started by a message
REPUBLISH_AFTER: Final = dt.timedelta(minutes=10)


@cache
def _unsent(state: State) -> Select[int, dt.datetime]:
    query = select(Job.id, Job.state_since).where(ready(state), Job.published_at.is_(None))
    return query.limit(bindparam("limit"))


@cache
def _sent_too_long_ago(state: State) -> Select[int, dt.datetime]:
    query = select(Job.id, Job.state_since).where(ready(state), Job.published_at < bindparam("published_before"))
    return query.limit(bindparam("limit"))


class Outbox(Leases):
    """Which messages are to be sent."""

    def unpublished(
        self,
        *,
        limit: int = 500,
        older_than: dt.timedelta | None = REPUBLISH_AFTER,
        settled_for: dt.timedelta = dt.timedelta(0),
        state: State | None = None,
    ) -> list[tuple[int, State]]:
        """Return waiting jobs whose message was never sent, is due again after a failure, or was sent too long ago.

        Parameters
        ----------
        older_than
            The age from which a message counts as lost; short where the broker is known to hold none, None where it holds some:
            one is as good as another, and a long backlog would only fill the broker with more of them.
        settled_for
            How long the job must have been in its state: whoever put it there is about to send the message.
        state
            Only jobs of this state.
        """
        self.unpark()
        # Two questions at most, each a short stretch of an index: never sent, and sent too long ago.
        asked = {"now": self.now(), "published_before": self.now() - (older_than or dt.timedelta(0))}
        questions = (_unsent, _sent_too_long_ago) if older_than is not None else (_unsent,)
        settled = self.now() - settled_for
        found: list[tuple[int, State]] = []
        with self._read() as session:
            for each in [state] if state else PUBLISHED_STATES:
                # A message says that there is work, not which: the worker takes whose turn it is, so no order is needed here.
                for question in questions:
                    rows = session.execute(question(each), {**asked, "limit": limit - len(found)})
                    # Asked of the database, this would lead it to an index by age, through every waiting job.
                    found += [(job_id, each) for job_id, since in rows if since <= settled]
        return found

    def published(self, job_id: int, state: State) -> None:
        """Remember that the message for the step after `state` is with the broker."""
        with self._write() as session:
            changed(session, Job, {"id": job_id, "state": state}, {"published_at": self.now()})
