"""The options of `remotegpud up`: all are remembered, and None stands for one that is not given."""

from typing import Annotated

import typer

Port = Annotated[int | None, typer.Option(min=1, max=65535)]
Text = Annotated[str | None, typer.Option()]

Simulation = Annotated[str | None, typer.Option(help="Simulated hosts, as in 2x4:A100-80GB. Default without a GPU.")]
Address = Annotated[str | None, typer.Option(help="Address or name at which others reach this machine.")]
HubDomain = Annotated[
    str | None, typer.Option(help="A host name of the Hub's own; each user gets a subdomain of it. Empty: none.")
]
DatabaseUrl = Annotated[str | None, typer.Option(envvar="DATABASE_URL", help="External PostgreSQL.")]
HubDatabaseUrl = Annotated[str | None, typer.Option(help="The Hub's database, if not beside the platform's.")]
RayAddress = Annotated[str | None, typer.Option(help="HOST:PORT of a Ray head that is there already.")]
RayTokenFile = Annotated[str | None, typer.Option(help="The file with that head's token.")]
RayDashboardUrl = Annotated[
    str | None, typer.Option(help="Where this machine reaches that head's dashboard, as in http://HOST:8265.")
]
DockerHost = Annotated[str | None, typer.Option(envvar="DOCKER_HOST", help="As in unix:///var/run/docker.sock.")]
BaseImage = Annotated[str | None, typer.Option(help="Image to build environments on, pulled if need be.")]
ObjectStoreUrl = Annotated[
    str | None, typer.Option(help="Where uploads and output are kept, as in s3://BUCKET/PREFIX.")
]
ObjectStoreEndpoint = Annotated[str | None, typer.Option(help="URL of an S3 that is not Amazon's.")]
TlsCa = Annotated[
    str | None, typer.Option(help="Who signed the certificate, where machines do not know it: a PEM file.")
]
