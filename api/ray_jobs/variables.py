"""The variables by which Ray's clients find the platform, and who they are there."""

import json


def client_variables(address: str, key: str) -> dict[str, str]:
    """For the command line, which reads the headers, and for `JobSubmissionClient()`, which reads the token alone.

    The token is also what a Ray that is started in the same place asks of its own clients: a key of its own.
    """
    return {
        "RAY_API_SERVER_ADDRESS": address,
        "RAY_JOB_HEADERS": json.dumps({"Authorization": f"Bearer {key}"}),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": key,
    }
