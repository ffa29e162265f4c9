"""Give each film its turn, so that peers share what there is: start-time fair queueing (Goyal, Vin, Cheng, 1997).

Jobs of one priority are taken in the order of their turn. A film's turn is one after the last waiting film of the same peer,
and never before the turn that is being served: who sends a thousand films at once gets every other place as soon as somebody
else sends one, and who was silent for a week may not claim the places of that week. The turn is fixed when the film comes in,
so that taking the next job is one look into an index.
"""

from typing import Final

from sqlalchemy import Connection, ScalarSelect, bindparam, func, or_, select

from service.prepared import Prepared
from service.tables import Job, State

WAITING: Final = (State.RECEIVED, State.PREPARED)  # what is still to be read
_PRIORITY: Final = Job.priority == bindparam("priority")


def next_turn(connection: Connection, peer: str, priority: int) -> int:
    """Return the turn of a film that comes in now.

    Two films of one peer that come in at the same moment may get the same turn; the number of the job then decides.
    """
    ((*first, last),) = _SERVED.run(connection, {"priority": priority})
    serving = [turn for turn in first if turn is not None]
    if not serving:
        return int(last or 0) + 1
    mine = {"peer": peer, "priority": priority, "serving": min(serving)}
    last_of_peer = max((turn for (turn,) in _LAST_OF_PEER.run(connection, mine)), default=0)
    return max(int(min(serving)), last_of_peer + 1)


def _first(state: State) -> ScalarSelect[int]:
    # What waits for a later time keeps its turn, however old: it must not set back the count for everybody.
    here = Job.state == state, Job.parked.is_(False), _PRIORITY
    return select(Job.turn).where(*here).order_by(Job.turn).limit(1).scalar_subquery()


# Asked for every film that comes in: put together once.
_SERVED: Final = Prepared(
    select(
        *(_first(state).label(state.lower()) for state in WAITING),
        select(func.max(Job.turn)).where(_PRIORITY).scalar_subquery().label("last"),
    )
)
_LAST_OF_PEER: Final = Prepared(
    select(Job.turn)
    .where(Job.peer == bindparam("peer"), _PRIORITY, Job.turn >= bindparam("serving"))
    .where(or_(*(Job.state == state for state in WAITING)))
    .order_by(Job.turn.desc())
    .limit(1)
)
