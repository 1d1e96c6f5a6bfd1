"""Every table, imported once so that the metadata is complete."""

from api.db import Base

metadata = Base.metadata
