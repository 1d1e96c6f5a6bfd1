"""`remotegpud status`: a table or JSON of each part's health."""

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from deploy.health import PartHealth
from deploy.instance import Instance
from deploy.progress import say


def show_table(instance: Instance, parts: list[PartHealth]) -> None:
    table = Table(title=f"RemoteGPU at {instance.public_url}, data in {instance.data}", title_justify="left")
    for heading in ("part", "health", "answer"):
        table.add_column(heading, overflow="fold")
    for part in parts:
        table.add_row(part.name, "[green]up[/]" if part.healthy else "[red]down[/]", part.detail)
    Console().print(table)


def show_json(instance: Instance, parts: list[PartHealth]) -> None:
    document = {
        "healthy": all(part.healthy for part in parts),
        "data": str(instance.data),
        "public_url": instance.public_url,
        "hub_url": instance.hub_url,
        "simulated": instance.simulate,
        "parts": [asdict(part) for part in parts],
    }
    say(json.dumps(document, indent=2))
