"""Run a statement that is put together once, on the driver's own cursor.

Between a short statement and its driver SQLAlchemy looks after caches, events and results: several times the work of the statement,
and more after each film, whose six megabytes push that code out of the processor's caches. What runs for every film is put together
once instead, its text, the order of its parameters and how each is converted; errors and lost connections are SQLAlchemy's as ever.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.compiler import SQLCompiler

_REQUIRED: Final = object()
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Parameter:
    """One place in the text: the value it has unless one is given, and how values are converted for the driver."""

    name: str
    value: Any
    convert: Callable[[Any], Any] | None

    def of(self, values: Mapping[str, Any]) -> Any:
        value = values[self.name] if self.value is _REQUIRED else values.get(self.name, self.value)
        return value if self.convert is None else self.convert(value)


@dataclass(frozen=True, slots=True)
class _Text:
    """The statement as one kind of database reads it."""

    sql: str
    parameters: Sequence[_Parameter]
    by_name: bool  # the driver takes parameters by their names, not in their order

    def arguments(self, values: Mapping[str, Any]) -> Any:
        if self.by_name:
            return {parameter.name: parameter.of(values) for parameter in self.parameters}
        return tuple([parameter.of(values) for parameter in self.parameters])


class Prepared:
    """A statement for every film.

    Parameters
    ----------
    statement
        Its parameters have names (`bindparam`) or values; none of them stands for a list of values (`in_`).
    """

    def __init__(self, statement: Executable) -> None:
        """Keep the statement; its text is made for a database when it is first run there."""
        self._statement: Any = statement
        self._texts: dict[str, _Text] = {}

    def run(self, connection: Connection, values: Mapping[str, Any]) -> list[Row]:
        """Run it inside the connection's transaction; return the rows it gives, their values as the driver has them."""
        text = self._text(connection.dialect)
        rows: list[Row] = _on_cursor(connection, "execute", text.sql, text.arguments(values)).fetchall()
        return rows

    def change(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """Run it where it gives no rows; return how many it changed."""
        text = self._text(connection.dialect)
        return int(_on_cursor(connection, "execute", text.sql, text.arguments(values)).rowcount)

    def repeat(self, connection: Connection, many: Sequence[Mapping[str, Any]]) -> None:
        """Run it once for each of these values."""
        text = self._text(connection.dialect)
        _on_cursor(connection, "executemany", text.sql, [text.arguments(values) for values in many])

    def _text(self, dialect: Dialect) -> _Text:
        text = self._texts.get(dialect.name)
        if text is None:
            compiled = self._statement.compile(dialect=dialect)
            text = self._texts[dialect.name] = _text_of(compiled, dialect)
        return text


def _text_of(compiled: SQLCompiler, dialect: Dialect) -> _Text:
    names = compiled.positiontup if compiled.positional else list(compiled.binds)
    parameters = []
    for name in names or []:
        bind = compiled.binds[name]
        convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
        parameters.append(_Parameter(name, _REQUIRED if bind.required else bind.effective_value, convert))
    return _Text(str(compiled), parameters, by_name=not compiled.positional)


def _on_cursor(connection: Connection, method: str, sql: str, arguments: Any) -> Any:
    """Run a text on a cursor of the driver; return the cursor.

    Raises
    ------
    DBAPIError
        As SQLAlchemy would: of the same class, without the parameters; a connection that is lost is used no more.
    """
    raw = connection.connection
    cursor = raw.cursor()
    dialect = connection.dialect
    driver: Any = dialect.dbapi
    try:
        getattr(cursor, method)(sql, arguments)
    except driver.Error as error:
        lost = dialect.is_disconnect(error, raw.dbapi_connection, cursor)
        if lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            sql, None, error, driver.Error, hide_parameters=True, connection_invalidated=lost, dialect=dialect
        ) from error
    return cursor
