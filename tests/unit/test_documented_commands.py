"""The commands on the pages of the documentation are ones that the command line understands."""

import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from api.tasks.spec import TaskSpec
from remotegpu.cli import app
from remotegpu.documents import parse

ROOT = Path(__file__).parents[2]
PAGES = [page for kind in ("how-to", "tutorial") for page in sorted((ROOT / "docs" / kind).glob("*.md"))]


def commands() -> Iterator[tuple[str, str]]:
    for page in [*PAGES, ROOT / "README.md", ROOT / "client" / "README.md"]:
        for line in page.read_text().splitlines():
            if line.startswith("    remotegpu "):
                yield page.name, line.strip()


@pytest.mark.parametrize(("page", "command"), list(commands()))
def test_the_command_line_understands(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    group = typer.main.get_command(app)
    context = group.make_context("remotegpu", ["--address", "http://platform", *words])
    while hasattr(group, "resolve_command"):
        words = [*context._protected_args, *context.args]
        if group.invoke_without_command and not words:
            return
        name, found, rest = group.resolve_command(context, words)
        assert found is not None
        context, group = found.make_context(name, rest, parent=context), found


def documents() -> Iterator[tuple[str, str]]:
    """Indented blocks that begin as tasks do."""
    for page in PAGES:
        for block in page.read_text().split("\n\n"):
            if block.startswith("    name: "):
                yield page.name, textwrap.dedent(block)


@pytest.mark.parametrize(("page", "text"), list(documents()))
def test_the_platform_takes_the_tasks(page: str, text: str) -> None:
    for document in parse(text, source=page, folder=Path()):
        TaskSpec.model_validate(document.task)


def test_there_are_tasks_on_the_pages() -> None:
    assert len(list(documents())) >= 2


def test_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--colour"):
        test_the_command_line_understands("none", "remotegpu env create --name x --colour red")
