"""Write rows by statements that are put together once: building one costs several times what running it does.

Every film takes some thirty transactions on its way. A session that looks after objects, and a statement that is built anew for
each of them, were most of what the queue cost; here a statement is made for a table and a set of columns, and gets its values.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, cast

from sqlalchemy import Connection, bindparam, insert, inspect, update
from sqlalchemy import Table as DatabaseTable
from sqlalchemy.orm import Session
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from service.prepared import Prepared
from service.tables import Table

_WHERE = "where_"  # before the name of a parameter that chooses rows, for the column may be written too


def inserted(connection: Connection, table: type[Table], values: Mapping[str, Any]) -> int:
    """Insert one row, its values by attribute; return its number."""
    row = _by_column(table, values)
    ((number,),) = _insertion(table, tuple(row), numbered=True).run(connection, row)
    return int(number)


def appended(session: Session, table: type[Table], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows whose numbers nobody asks for; all of them name the same attributes."""
    if rows:
        many = [_by_column(table, row) for row in rows]
        _insertion(table, tuple(many[0]), numbered=False).repeat(session.connection(), many)


def changed(session: Session, table: type[Table], where: Mapping[str, Any], values: Mapping[str, Any]) -> int:
    """Change the rows that have these values; return how many there were. Objects of the session do not follow."""
    named = {f"{_WHERE}{name}": value for name, value in _by_column(table, where).items()}
    statement = _change(table, tuple(sorted(where)), tuple(sorted(values)))
    return statement.change(session.connection(), {**_by_column(table, values), **named})


def _by_column(table: type[Table], values: Mapping[str, Any]) -> dict[str, Any]:
    names = columns(table)
    return {names[name]: value for name, value in values.items()}


@cache
def columns(table: type[Table]) -> Mapping[str, str]:
    """Return the column of each attribute."""
    return {each.key: each.columns[0].key for each in inspect(table).column_attrs}


@cache
def database_table(table: type[Table]) -> DatabaseTable:
    """Return the table as the database knows it."""
    return cast(DatabaseTable, table.__table__)


@cache
def _insertion(table: type[Table], names: Iterable[str], *, numbered: bool) -> Prepared:
    own = database_table(table)
    usual = {each.key: each.default.arg for each in own.columns if isinstance(each.default, ScalarElementColumnDefault)}
    statement = insert(own).values({**usual, **{name: bindparam(name) for name in names}})
    return Prepared(statement.returning(own.c.id) if numbered else statement.inline())


@cache
def _change(table: type[Table], where: tuple[str, ...], values: tuple[str, ...]) -> Prepared:
    own, names = database_table(table), columns(table)
    which = [own.c[names[name]] == bindparam(f"{_WHERE}{names[name]}") for name in where]
    return Prepared(update(own).where(*which).values({names[name]: bindparam(names[name]) for name in values}))
