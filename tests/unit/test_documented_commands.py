"""The commands on the how-to pages and in the tutorial are ones that the command line understands."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from remotegpu.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs" / "how-to").glob("*.md")), ROOT / "docs" / "tutorial" / "first-environment.md"]


def commands() -> Iterator[tuple[str, str]]:
    for page in [*PAGES, ROOT / "README.md"]:
        for line in page.read_text().splitlines():
            if line.startswith("    remotegpu "):
                yield page.name, line.strip()


@pytest.mark.parametrize(("page", "command"), list(commands()))
def test_the_command_line_understands(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    group = typer.main.get_command(app)
    context = group.make_context("remotegpu", ["--address", "http://platform", *words])
    while hasattr(group, "resolve_command"):
        name, found, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        context, group = found.make_context(name, rest, parent=context), found


def test_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--colour"):
        test_the_command_line_understands("none", "remotegpu env create --name x --colour red")
