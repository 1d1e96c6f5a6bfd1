"""Reading apt's own configuration, in both of its formats and for both distributions."""

from pathlib import Path

import pytest

from deploy.apt_sources import distribution_source, parse_deb822, parse_one_line
from deploy.progress import StepError

UBUNTU = """
Types: deb deb-src
URIs: http://archive.ubuntu.com/ubuntu/
Suites: noble noble-updates noble-backports
Components: main universe restricted multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

Types: deb
URIs: http://security.ubuntu.com/ubuntu/
Suites: noble-security
Components: main
"""


def machine(root: Path, *, codename: str, name: str, text: str) -> Path:
    (root / "etc/apt/sources.list.d").mkdir(parents=True)
    (root / "etc/os-release").write_text(f'PRETTY_NAME="A release"\nVERSION_CODENAME={codename}\n')
    (root / "etc/apt" / name).write_text(text)
    return root


def test_one_line_entries_with_and_without_options() -> None:
    text = """
# deb http://commented.example/debian bookworm main
deb http://deb.debian.org/debian bookworm main contrib # the mirror
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://mirror.example/debian bookworm-updates main
deb-src http://deb.debian.org/debian bookworm main
deb broken
"""
    first, second = parse_one_line(text)
    assert (first.uri, first.suite, first.components) == (
        "http://deb.debian.org/debian",
        "bookworm",
        ("main", "contrib"),
    )
    assert second.keyring == Path("/usr/share/keyrings/x.gpg")


def test_deb822_stanzas_multiply_uris_and_suites() -> None:
    sources = list(parse_deb822(UBUNTU))
    assert [source.suite for source in sources] == ["noble", "noble-updates", "noble-backports", "noble-security"]
    assert sources[0].keyring == Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")


def test_disabled_source_only_and_inline_keys_are_no_sources() -> None:
    disabled = "Types: deb\nURIs: http://a/\nSuites: x\nComponents: main\nEnabled: no\n"
    assert list(parse_deb822(disabled)) == []
    assert list(parse_deb822(disabled.replace("Types: deb", "Types: deb-src").replace("no", "yes"))) == []
    inline = "Types: deb\nURIs: http://a/\nSuites: x\nComponents: main\nSigned-By:\n -----BEGIN PGP-----\n .\n"
    assert next(parse_deb822(inline)).keyring is None


@pytest.mark.parametrize(
    ("codename", "name", "text", "uri"),
    [
        ("noble", "sources.list.d/ubuntu.sources", UBUNTU, "http://archive.ubuntu.com/ubuntu/"),
        (
            "bookworm",
            "sources.list",
            "deb http://mirror.example/debian bookworm main\n",
            "http://mirror.example/debian",
        ),
        ("trixie", "sources.list", "deb mirror+https://m.example/debian trixie main\n", "https://m.example/debian"),
    ],
)
def test_the_distributions_own_repository_is_found(
    tmp_path: Path, codename: str, name: str, text: str, uri: str
) -> None:
    root = machine(tmp_path, codename=codename, name=name, text=text)
    assert distribution_source(root).uri == uri


def test_third_party_repositories_are_not_taken_for_it(tmp_path: Path) -> None:
    text = "deb https://packages.example/apt nodistro main\ndeb https://x.example bookworm stable\n"
    with pytest.raises(StepError, match="--base-image"):
        distribution_source(machine(tmp_path, codename="bookworm", name="sources.list", text=text))
