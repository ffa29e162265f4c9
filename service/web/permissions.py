"""Say who may ask for what: one table. A path that is not in it is refused, and so is a method that is not beside its path."""

from collections.abc import Mapping
from typing import Final

from service.trust.accounts import Role

EVERYBODY: Final = frozenset({Role.VIEWER, Role.RADIOLOGIST, Role.ADMINISTRATOR})
ADMINISTRATORS: Final = frozenset({Role.ADMINISTRATOR})
MONITORS: Final = frozenset({Role.ADMINISTRATOR, Role.SERVICE})
READERS: Final = frozenset({Role.RADIOLOGIST})  # whose film it is, and corrections, are theirs
ANYONE: Final[frozenset[Role | None]] = frozenset({*Role, None})  # None: nobody is logged in

# Path of the route: method: who. HEAD is GET.
PERMISSIONS: Final[Mapping[str, Mapping[str, frozenset[Role | None]]]] = {
    "/": {"GET": EVERYBODY},
    "/films/live": {"GET": EVERYBODY},
    "/films/{number:int}": {"GET": EVERYBODY},
    "/films/{number:int}/live": {"GET": EVERYBODY},
    "/films/{number:int}/overlay.png": {"GET": EVERYBODY},
    "/films/{number:int}/preview": {"GET": EVERYBODY},
    "/films/{number:int}/preview/{file:str}": {"GET": EVERYBODY},
    "/films/{number:int}/amend": {"GET": READERS, "POST": READERS},
    "/films/{number:int}/{action:str}": {"POST": ADMINISTRATORS},
    "/quarantine": {"GET": ADMINISTRATORS},
    "/queues": {"GET": ADMINISTRATORS},
    "/queues/{queue:str}/{action:str}": {"POST": ADMINISTRATORS},
    "/system": {"GET": ADMINISTRATORS},
    "/login": {"GET": ANYONE, "POST": ANYONE},
    "/login/oidc": {"POST": ANYONE},
    "/login/oidc/callback": {"GET": ANYONE},
    "/logout": {"POST": EVERYBODY},
    "/metrics": {"GET": MONITORS},
    "/health/live": {"GET": ANYONE},
    "/health/ready": {"GET": ANYONE},  # the status; the reasons are for MONITORS
    "/static": {"GET": ANYONE},
}


def may(role: Role | None, path: str, method: str = "GET") -> bool:
    """Whether a role may use a route.

    Parameters
    ----------
    path
        As the route is declared, e.g. `/films/{number:int}`.
    """
    return role in PERMISSIONS.get(path, {}).get("GET" if method == "HEAD" else method, frozenset())


def sees_identity(role: Role | None) -> bool:
    """Whether a role is shown whose film it is; everybody else sees a pseudonym."""
    return role in READERS


def searches_identity(role: Role | None) -> bool:
    """Whether a role may look for a film by a UID it knows from the PACS."""
    return role in READERS | ADMINISTRATORS
