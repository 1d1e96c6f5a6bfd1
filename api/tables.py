"""Every table, imported once so that the metadata is complete."""

# ruff: noqa: F401  (importing them is what they are here for)
from api.allocations import tables as _allocations
from api.audit import tables as _audit
from api.billing import tables as _billing
from api.billing.chain import tables as _chain
from api.capacity import tables as _capacity
from api.db import Base
from api.environments import tables as _environments
from api.idempotency import tables as _idempotency
from api.identity import tables as _identity
from api.images import tables as _images
from api.logs import tables as _logs
from api.machines import tables as _machines
from api.metering import tables as _metering
from api.oidc import tables as _oidc
from api.quotas import tables as _quotas
from api.reservations import tables as _reservations
from api.secrets import tables as _secrets
from api.tasks import tables as _tasks
from api.tenants import tables as _tenants
from api.uploads import tables as _uploads
from api.volumes import tables as _volumes

metadata = Base.metadata
