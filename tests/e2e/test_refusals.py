"""Bad input: a clear 4xx over REST, and a message with an exit code from the command."""

from collections.abc import Iterator

import pytest

from tests.e2e.commands import Customer, Person

_ENVIRONMENT = {"name": "bad", "image": "base", "gpus": 1, "gpu_model": "A100"}
_REFUSED = 5
_USAGE = 2


@pytest.fixture(scope="module")
def customer(lovelace: Customer) -> Iterator[Customer]:
    yield lovelace
    assert "bad" not in [environment["name"] for environment in lovelace.owner.json("env", "list")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--image", "nope"], "image"),
        (["--gpus", "1000"], "gpus"),
        (["--gpu-model", "B900"], "B900"),
        (["--memory", "900TB"], "memory"),
        (["--name", "Not A Label"], "name"),
    ],
)
def test_the_command_says_what_is_wrong(customer: Customer, arguments: list[str], said: str) -> None:
    done = customer.owner.run("env", "create", "--name", "bad", *arguments, check=False)
    assert (done.returncode, done.stdout) == (_REFUSED, ""), done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr


def test_the_command_itself_refuses_what_is_no_number_of_gpus(customer: Customer) -> None:
    done = customer.owner.run("env", "create", "--name", "bad", "--gpus", "1.5", check=False)
    assert (done.returncode, done.stdout) == (_USAGE, ""), done.stderr
    assert "write a whole number of GPUs" in done.stderr


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"image": "nope"}, 422, "unknown_image"),
        ({"gpus": 0}, 422, "validation"),  # which can't be of a model
        ({"gpus": -1}, 422, "validation"),
        ({"gpus": 1000}, 422, "validation"),
        ({"gpus": 64}, 422, None),
        ({"gpu_model": "B900"}, 422, None),
        ({"colour": "red"}, 422, "validation"),
        ({"gpus": "many"}, 422, "validation"),
    ],
)
def test_the_api_answers_with_a_problem(
    customer: Customer, change: dict[str, object], status: int, code: str | None
) -> None:
    with customer.owner.rest() as rest:
        answer = rest.post("/customer/environments", json=_ENVIRONMENT | change)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"]) == (status, status), problem
    assert problem["detail"] and (code is None or problem["code"] == code), problem


def test_bodies_that_are_no_json_or_too_large(customer: Customer) -> None:
    with customer.owner.rest() as rest:
        headers = {"content-type": "application/json"}
        broken = rest.post("/customer/environments", content=b'{"name": "bad",', headers=headers)
        assert broken.status_code in (400, 422), broken.text
        assert broken.json()["code"]
        large = rest.post("/customer/environments", content=b" " * 20_000_000, headers=headers)
        assert large.status_code == 413, large.text


def test_a_name_is_taken_once(customer: Customer) -> None:
    arguments = ("env", "create", "--name", "taken", "--gpus", "1", "--cpus", "1", "--memory", "1GiB")
    customer.owner.run(*arguments)
    done = customer.owner.run(*arguments, check=False)
    assert done.returncode == _REFUSED and "taken" in done.stderr
    with customer.owner.rest() as rest:
        assert rest.post("/customer/environments", json=_ENVIRONMENT | {"name": "taken"}).status_code == 409
    customer.owner.run("env", "rm", "taken", "--yes")


def test_what_does_not_exist_or_is_anothers_is_not_found(customer: Customer, hopper: Customer) -> None:
    customer.owner.run("env", "create", "--name", "mine", "--cpus", "1", "--memory", "1GiB")
    mine = customer.owner.json("env", "show", "mine")["id"]
    done = hopper.owner.run("env", "show", mine, check=False)
    assert done.returncode == 4 and "env list" in done.stderr
    with hopper.owner.rest() as rest:
        for method, path in (("GET", ""), ("POST", "/stop"), ("POST", "/start"), ("DELETE", "")):
            assert rest.request(method, f"/customer/environments/{mine}{path}").status_code == 404, path
    customer.owner.run("env", "rm", "mine", "--yes")


def test_without_a_session_the_command_says_how_to_sign_in(operator: Person, customer: Customer) -> None:
    nobody = Person(
        operator.address, customer.owner.profile.with_name("nobody.json"), "nobody", "no password of anyone"
    )
    done = nobody.run("--address", operator.address, "env", "list", check=False)
    assert done.returncode == 3 and "remotegpu login" in done.stderr
    done = nobody.run("login", operator.address, "--username", "nobody", "--password-stdin", stdin="x\n", check=False)
    assert done.returncode == 3 and done.stderr.startswith("error:")
    away = nobody.run("--address", "http://127.0.0.1:9", "env", "list", check=False)
    assert away.returncode in (3, 6)
