"""What Ray's clients send to submit a job, key for key."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict

from api.allocations.request import MAX_BYTES

MAX_KEYS = 256

Number = Annotated[float, Strict(), Field(ge=0, le=1_000_000, allow_inf_nan=False)]
SUBMISSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
SubmissionId = Annotated[str, Field(pattern=f"^{SUBMISSION_ID.pattern}$")]


class Refused(ValueError):
    """The job can't be run as it was asked for. The message names the key, and says what to do instead."""


class JobSubmit(BaseModel):
    """A job as Ray's clients describe it; a key that is null counts as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entrypoint: str = Field(min_length=1, max_length=65_536, description="Shell command", examples=["python x.py"])
    submission_id: SubmissionId | None = Field(None, description="Unique among your customer's jobs; made up if absent")
    job_id: SubmissionId | None = Field(None, description="The older name of `submission_id`")
    runtime_env: dict[str, Any] | None = Field(None, max_length=MAX_KEYS)  # Any: JSON, read by `runtime_env.read`
    metadata: dict[str, str] | None = Field(None, max_length=MAX_KEYS)
    entrypoint_num_cpus: Number | None = None
    entrypoint_num_gpus: Number | None = None
    entrypoint_memory: Annotated[int, Strict(), Field(ge=0, le=MAX_BYTES)] | None = Field(None, description="Bytes")
    entrypoint_resources: dict[str, Number] | None = Field(None, max_length=MAX_KEYS)
    entrypoint_label_selector: dict[str, str] | None = Field(None, max_length=MAX_KEYS)
