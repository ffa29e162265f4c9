"""Give each film its turn, so that peers share what there is: start-time fair queueing (Goyal, Vin, Cheng, 1997).

Jobs of one priority are taken in the order of their turn. A film's turn is one after the last waiting film of the same peer,
and never before the turn that is being served: who sends a thousand films at once gets every other place as soon as somebody
else sends one, and who was silent for a week may not claim the places of that week. The turn is fixed when the film comes in,
so that taking the next job is one look into an index.
"""

from sqlalchemy import ScalarSelect, func, select
from sqlalchemy.orm import Session

from service.tables import Job, State

WAITING = (State.RECEIVED, State.PREPARED)  # what is still to be read


def next_turn(session: Session, peer: str, priority: int) -> int:
    """Return the turn of a film that comes in now.

    Two films of one peer that come in at the same moment may get the same turn; the number of the job then decides.
    """
    first = session.execute(
        select(*(_first(state, priority).label(state.lower()) for state in WAITING), _last(priority).label("last"))
    ).one()
    serving = [turn for turn in (first.received, first.prepared) if turn is not None]
    if not serving:
        return int(first.last or 0) + 1
    mine = Job.peer == peer, Job.priority == priority, Job.turn >= min(serving), Job.state.in_(WAITING)
    last_of_peer = session.scalar(select(Job.turn).where(*mine).order_by(Job.turn.desc()).limit(1))
    return max(int(min(serving)), (last_of_peer or 0) + 1)


def _first(state: State, priority: int) -> ScalarSelect[int]:
    # What waits for a later time keeps its turn, however old: it must not set back the count for everybody.
    here = Job.state == state, Job.parked.is_(False), Job.priority == priority
    return select(Job.turn).where(*here).order_by(Job.turn).limit(1).scalar_subquery()


def _last(priority: int) -> ScalarSelect[int | None]:
    return select(func.max(Job.turn)).where(Job.priority == priority).scalar_subquery()
