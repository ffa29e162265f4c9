"""docs/training.md names only commands and options that exist."""

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from models.training import PROBLEMS
from service.__main__ import cli

PAGE = Path(__file__).parent.parent / "docs" / "training.md"
LINES = re.findall(r"^carpus .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_page_exists_with_its_options(line: str) -> None:
    _, command, *words = shlex.split(line)
    options = {word for word in words if word.startswith("--")}
    if command == "train":
        module = importlib.import_module(PROBLEMS[words[0]][0])
        if hasattr(module, "parser"):
            module.parser().parse_args(words[1:])
        else:
            module.arguments(words[1:])
        return
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    assert options <= {name for parameter in found.params for name in parameter.opts}


def test_the_page_walks_through_every_command() -> None:
    assert {line.split()[1] for line in LINES} >= {"phantom", "evaluate", "read", "calibrate", "models", "train"}
