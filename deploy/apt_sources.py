"""What this machine's own apt is configured for: the mirror, release and keyring that debootstrap should use."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.progress import StepError

_OPTION = re.compile(r"\[([^]]*)\]")


@dataclass(frozen=True, slots=True)
class AptSource:
    """One repository. `keyring` is the file it is signed with, where the configuration names one."""

    uri: str
    suite: str
    components: tuple[str, ...]
    keyring: Path | None = None


def parse_one_line(text: str) -> Iterator[AptSource]:
    """Entries of a `.list` file: `deb [options] uri suite components...`."""
    for raw in text.splitlines():
        line = raw.split("#", 1)[0].strip()
        if not line.startswith(("deb ", "deb\t")):
            continue
        keyring = None
        if found := _OPTION.search(line):
            keyring = _keyring(dict(pair.partition("=")[::2] for pair in found[1].split()).get("signed-by"))
            line = line.replace(found[0], " ", 1)
        words = line.split()
        if len(words) >= 3:
            yield AptSource(words[1], words[2], tuple(words[3:]), keyring)


def parse_deb822(text: str) -> Iterator[AptSource]:
    """Entries of a `.sources` file: stanzas of `Field: value` with continuation lines."""
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t"):
                fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield AptSource(uri, suite, components, _keyring(fields.get("signed-by")))


def read_sources(root: Path = Path("/")) -> list[AptSource]:
    """Every repository below `root`'s `etc/apt`."""
    directory = root / "etc/apt"
    lists = [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*.list"))]
    sources = [source for path in lists if path.is_file() for source in parse_one_line(path.read_text())]
    for path in sorted((directory / "sources.list.d").glob("*.sources")):
        sources += parse_deb822(path.read_text())
    return sources


def distribution_source(root: Path = Path("/")) -> AptSource:
    """The distribution's own repository of this machine's release.

    Raises:
        StepError: apt's configuration names none.
    """
    release = dict(
        line.replace('"', "").split("=", 1)
        for line in (root / "etc/os-release").read_text().splitlines()
        if "=" in line
    )
    suite = release.get("VERSION_CODENAME", "")
    for source in read_sources(root):
        if source.suite == suite and "main" in source.components and source.uri.startswith(("http", "file", "mirror")):
            return AptSource(_plain(source.uri), suite, source.components, source.keyring)
    raise StepError(
        f"apt's configuration names no repository of the release {suite or 'unknown'!r} with the component main: "
        "add one to /etc/apt/sources.list, or name an image with --base-image"
    )


def _plain(uri: str) -> str:
    # debootstrap does not know apt's mirror+ schemes; the file of a mirror list is on another host.
    return uri.removeprefix("mirror+")


def _keyring(value: str | None) -> Path | None:
    return Path(value) if value and value.startswith("/") else None
