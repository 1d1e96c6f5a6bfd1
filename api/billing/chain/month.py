"""The period of a bill: a calendar month, UTC."""

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """`start` belongs to it, `end` does not."""

    year: int
    month: int

    @staticmethod
    def of(moment: datetime) -> "Month":
        utc = moment.astimezone(UTC)
        return Month(utc.year, utc.month)

    @staticmethod
    def parse(text: str) -> "Month":
        """Of the form 2026-11.

        Raises:
            ValueError: it is not.
        """
        year, _, month = text.partition("-")
        found = Month(int(year), int(month))
        if str(found) != text or not 1 <= found.month <= 12 or not 1970 <= found.year <= 8999:
            raise ValueError("a period is a year and a month, as 2026-11")
        return found

    @property
    def start(self) -> datetime:
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        return self.next.start

    @property
    def next(self) -> "Month":
        return Month(self.year + self.month // 12, self.month % 12 + 1)

    def __str__(self) -> str:
        return f"{self.year:04}-{self.month:02}"
