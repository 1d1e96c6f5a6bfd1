"""What the money path takes: ingestion over COPY, a day of 1,000 GPUs, a large statement, admission."""

from tests.bench import billing_admission, billing_day, billing_ingestion, billing_statement
from tests.bench.figures import Figure


def run() -> list[Figure]:
    parts = (billing_ingestion, billing_day, billing_statement, billing_admission)
    return [figure for part in parts for figure in part.run()]
