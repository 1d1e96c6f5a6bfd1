"""The catalogue file, from which the images table is filled at start."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.db import Database
from api.images.tables import Image

Port = Annotated[int, Field(ge=1, le=65535)]


class CatalogueImage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    framework: str
    version: str
    cuda: str | None = None
    reference: str
    ports: list[Port] = Field(min_length=1, max_length=16)
    description: str = ""


class Catalogue(BaseModel):
    model_config = ConfigDict(extra="forbid")

    images: list[CatalogueImage]


def read(path: Path) -> Catalogue:
    """The file, checked.

    Raises:
        pydantic.ValidationError: it does not describe images.
    """
    return Catalogue.model_validate(yaml.safe_load(path.read_text()))


def seed(database: Database, path: Path) -> None:
    """Add images that are missing and bring the others up to the file; whether one is enabled stays as it is.

    An image that is not in the file is an administrator's own and stays too.
    """
    catalogue = read(path)
    database.transact(lambda session: _write(session, catalogue))


def _write(session: Session, catalogue: Catalogue) -> None:
    known = {image.name: image for image in session.scalars(select(Image).with_for_update())}
    for described in catalogue.images:
        image = known.get(described.name)
        if image is None:
            image = Image(name=described.name)
            session.add(image)
        for field, value in described.model_dump(exclude={"name"}).items():
            if getattr(image, field, None) != value:
                setattr(image, field, value)
