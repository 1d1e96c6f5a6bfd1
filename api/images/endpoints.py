"""The images that tenants may start."""

from datetime import datetime
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.audit import service as audit
from api.db import Database
from api.deps import DatabaseDep, PrincipalDep
from api.errors import Conflict, NotFound
from api.idempotency.once import OnceDep
from api.images.tables import Image
from api.pagination import CursorQuery, LimitQuery, Page, page_of
from api.principal import Principal
from api.problems import problems

router = APIRouter(tags=["images"])

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]{1,100}$")]
Description = Annotated[str, StringConstraints(pattern=r"^[^\x00]{0,1000}$")]
Reference = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][A-Za-z0-9._/:@-]{0,254}$")]
Ports = Annotated[list[Annotated[int, Field(ge=1, le=65535)]], Field(min_length=1, max_length=16)]


class ImageIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    framework: Text
    version: Text
    cuda: Text | None = None
    reference: Reference
    ports: Ports = [8888]
    description: Description = ""
    enabled: bool = True


class ImagePatch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    framework: Text | None = None
    version: Text | None = None
    cuda: Text | None = None
    reference: Reference | None = None
    ports: Ports | None = None
    description: Description | None = None
    enabled: bool | None = None


class ImageOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID = Field(validation_alias="uid")
    name: str
    framework: str
    version: str
    cuda: str | None
    reference: str
    ports: list[int]
    description: str
    enabled: bool
    created_at: datetime


@router.get("/admin/images", responses=problems(400))
def list_images(database: DatabaseDep, limit: LimitQuery = 50, cursor: CursorQuery = None) -> Page[ImageOut]:
    return _page(database, select(Image), limit, cursor)


@router.get("/customer/images", responses=problems(400))
def list_enabled_images(database: DatabaseDep, limit: LimitQuery = 50, cursor: CursorQuery = None) -> Page[ImageOut]:
    """Those that may be started."""
    return _page(database, select(Image).where(Image.enabled), limit, cursor)


@router.post("/admin/images", status_code=201, responses=problems(409))
def create_image(body: ImageIn, database: DatabaseDep, principal: PrincipalDep, once: OnceDep) -> ImageOut:
    """Offer an image. Hosts must be able to get its reference."""

    def create(session: Session) -> ImageOut:
        image = Image(**body.model_dump())
        try:
            with session.begin_nested():
                session.add(image)
                session.flush()
        except IntegrityError as error:
            raise Conflict(f"There is an image {body.name!r} already.", code="name_taken") from error
        _record(session, principal, image, "create")
        return _out(image)

    return database.transact(lambda session: once.run(session, ImageOut, partial(create, session)))


@router.patch("/admin/images/{image_id}", responses=problems(404))
def change_image(image_id: UUID, body: ImagePatch, database: DatabaseDep, principal: PrincipalDep) -> ImageOut:
    """What runs keeps the reference that it was started with."""

    def work(session: Session) -> ImageOut:
        image = session.scalar(select(Image).where(Image.uid == image_id).with_for_update())
        if image is None:
            raise NotFound("There is no such image.")
        for field, value in body.model_dump(exclude_unset=True).items():
            if value is not None or field == "cuda":
                setattr(image, field, value)
        _record(session, principal, image, "change")
        return _out(image)

    return database.transact(work)


def _page(database: Database, query: Select[Image], limit: int, cursor: str | None) -> Page[ImageOut]:
    return page_of(database, query, lambda row: _out(row.Image), key=Image.id, cursor=cursor, limit=limit)


def _out(image: Image) -> ImageOut:
    return ImageOut.model_validate(image)


def _record(session: Session, principal: Principal, image: Image, action: str) -> None:
    audit.record(
        session,
        actor=principal.actor,
        action=f"image.{action}",
        target=f"image:{image.uid}",
        address=principal.address,
        details={"name": image.name, "reference": image.reference, "enabled": image.enabled},
    )
