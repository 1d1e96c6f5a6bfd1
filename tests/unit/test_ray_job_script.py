"""The shell texts of a job, run by a real shell: in a directory of the test's instead of the container's /tmp."""

import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from api.ray_jobs import runtime_env, script
from api.ray_jobs.runtime_env import RuntimeEnv, Source


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory and the address at which it is served."""
    directory = tmp_path / "served"
    directory.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield directory, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(text: str, directory: Path, **variables: str) -> str:
    """What it prints."""
    python = Path(sys.executable).parent
    (directory / "work").mkdir(exist_ok=True)
    done = subprocess.run(
        ["/bin/sh", "-c", text.replace("/tmp/ray_job", str(directory / "ray_job"))],
        cwd=directory / "work",
        env={"PATH": f"{python}:{os.environ['PATH']}", "HOME": str(directory), "no_proxy": "127.0.0.1", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def wheel(directory: Path, name: str, version: str, source: str) -> Path:
    """A wheel of one module with a console script."""
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\nsay-{name} = {name}:main\n",
    }
    record = "".join(f"{each},,\n" for each in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(each, content)
    return path


def test_nothing_to_prepare_leaves_the_entrypoint_as_it_is() -> None:
    assert script.setup(RuntimeEnv()) is None
    assert script.command("a && b; c", RuntimeEnv()) == "a && b; c"


def test_variables_may_refer_to_others(tmp_path: Path) -> None:
    variables = {
        "PLAIN": "as it is",
        "PATHS": "${OLD}:/x y:$(id):`id`:'\"",
        "BARE": "$OLD and $MISSING and ${MISSING}.",
    }
    assert script.plain(variables) == {"PLAIN": "as it is"}
    command = script.command('printf \'%s|\' "$PATHS" "$BARE"', RuntimeEnv(env_vars=variables))
    assert run(command, tmp_path, OLD="/old") == "/old:/x y:$(id):`id`:'\"|/old and $MISSING and .|"


def test_modules_come_before_the_images(tmp_path: Path) -> None:
    module = tmp_path / "ray_job" / "py_modules" / "0"
    module.mkdir(parents=True)
    (module / "mine.py").write_text("name = 'mine'")
    env = RuntimeEnv(py_modules=(Source(package="gcs/a.zip"),), working_dir=Source(package="gcs/w.zip"))
    command = script.command("python3 -c 'import mine; print(mine.name)'; echo \"$PYTHONPATH\"", env)
    name, path = run(command, tmp_path, PYTHONPATH="/before").splitlines()
    assert (name, path) == ("mine", f"{tmp_path / 'work'}:{module}:/before")


def test_archives_are_fetched_and_their_only_folder_is_left_out(tmp_path: Path, served: tuple[Path, str]) -> None:
    directory, address = served
    with zipfile.ZipFile(directory / "w.zip", "w") as archive:
        archive.writestr("repo-main/x.py", "print('from the archive')")
        archive.writestr("__MACOSX/x", "")
    with zipfile.ZipFile(directory / "m.zip", "w") as archive:
        archive.writestr("a.py", "name = 'a'")
        archive.writestr("../../escaped.py", "")
    env = RuntimeEnv(working_dir=Source(url=f"{address}/w.zip"), py_modules=(Source(url=f"{address}/m.zip"),))
    setup = script.setup(env)
    assert setup is not None
    run(setup, tmp_path)
    assert run(script.command("python3 x.py && python3 -c 'import a'", env), tmp_path) == "from the archive\n"
    assert not list(tmp_path.glob("escaped.py")) and not (tmp_path / "ray_job" / "escaped.py").exists()


def test_pip_installs_what_the_image_lacks(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "extra", "1.0", "def main(): print('said')")
    env = runtime_env.read(
        {
            "pip": {
                "packages": ["extra==1.0", "pip"],  # the second the image has
                "pip_install_options": ["--no-index", "--find-links", str(wheels), "--no-cache-dir"],
                "pip_check": False,
            }
        }
    )
    setup = script.setup(env)
    assert setup is not None
    assert "already satisfied: pip" in run(setup, tmp_path)
    said = run(script.command("say-extra; python -c 'import sys; print(sys.prefix)'", env), tmp_path)
    assert said.splitlines() == ["said", str(tmp_path / "ray_job" / "venv")]


def test_uv_is_taken_from_the_image_if_it_has_it(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "extra", "1.0", "def main(): print('said')")
    env = runtime_env.read(
        {
            "uv": {
                "packages": ["extra"],
                "uv_pip_install_options": ["--offline", "--no-index", "--find-links", str(wheels), "--no-cache"],
            }
        }
    )
    setup = script.setup(env)
    assert setup is not None
    run(setup, tmp_path)
    assert run(script.command("say-extra", env), tmp_path) == "said\n"


def test_quotes_stay_what_they_are(tmp_path: Path) -> None:
    env = runtime_env.read({"pip": ["a; echo broken > out", "b @ file:///x y'z"]})
    setup = script.setup(env)
    assert setup is not None
    wrote = next(line for line in setup.splitlines() if line.startswith("printf"))
    (tmp_path / "ray_job").mkdir()
    run(wrote, tmp_path)
    found = (tmp_path / "ray_job" / "requirements.txt").read_text()
    assert found == "a; echo broken > out\nb @ file:///x y'z\n"


def test_what_fails_ends_the_setup(tmp_path: Path, served: tuple[Path, str]) -> None:
    env = RuntimeEnv(working_dir=Source(url=f"{served[1]}/missing.zip"))
    setup = script.setup(env)
    assert setup is not None
    with pytest.raises(AssertionError, match="404"):
        run(setup + "\necho went on", tmp_path)


def test_over_nodes_ray_runs_with_the_same(tmp_path: Path) -> None:
    module = RuntimeEnv(env_vars={"A": "${HOME}/a", "B": "plain"}, py_modules=(Source(package="gcs/x.zip"),))
    said = run(script.command('echo "$RAY_JOB_CONFIG_JSON_ENV_VAR"', module, over_nodes=True), tmp_path)
    modules = str(tmp_path / "ray_job" / "py_modules" / "0")
    assert json.loads(said) == {"runtime_env": {"env_vars": {"A": f"{tmp_path}/a", "PYTHONPATH": modules}}}
    assert script.command("true", RuntimeEnv(env_vars={"B": "plain"}), over_nodes=True) == "true"


def test_over_nodes_ray_runs_in_what_was_installed(tmp_path: Path) -> None:
    env = runtime_env.read({"pip": ["emoji"]})
    (tmp_path / "ray_job" / "venv" / "bin").mkdir(parents=True)
    said = run(script.command('echo "$RAY_JOB_CONFIG_JSON_ENV_VAR"', env, over_nodes=True), tmp_path)
    python = str(tmp_path / "ray_job" / "venv" / "bin" / "python")
    assert json.loads(said) == {"runtime_env": {"env_vars": {}, "py_executable": python}}
