"""Read a YAML file that a person wrote; what cannot be one (nested or merged without end, a name twice) is refused with one line."""

from pathlib import Path
from typing import Any, Final

import yaml

from service.errors import InvalidConfiguration

MAXIMUM_BYTES: Final = 2**20
DEEPEST: Final = 100
MOST_NAMES: Final = 10_000  # of one mapping, what `<<` brings into it included: merges of merges multiply


def read(path: Path) -> Any:
    """Return what a file holds.

    Raises
    ------
    InvalidConfiguration
        When it cannot be read, is too large or is not YAML; the text names file and line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_BYTES + 1)  # no more, whatever it is
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidConfiguration(f"cannot read {path}: {reason}") from error
    if len(content) > MAXIMUM_BYTES:
        raise InvalidConfiguration(f"{path} has more than {MAXIMUM_BYTES} bytes")
    try:
        return yaml.load(content.decode("utf-8-sig"), _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}" if mark else ""
        raise InvalidConfiguration(f"{path} is not YAML{where}: {error.problem or error.context}") from error
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # besides: another encoding, a day or number that is none
        raise InvalidConfiguration(f"{path} is not YAML: {' '.join(str(error).split())}") from error


class _Loader(yaml.SafeLoader):
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self._depth >= DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # of the stubs
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEEPEST} deep", problem_mark=mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:  # the last one would win without a word
                    problem = f"{key.value} stands here for the second time"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_NAMES:
            problem = f"a mapping of more than {MOST_NAMES} names"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
