"""Named keys: digests in a file, and limits of each."""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import cli
from pipelines.errors import UserError
from serve.gateway.asgi import ApiError
from serve.gateway.database import Sqlite
from serve.gateway.keys import Access
from serve.settings import Limits, NamedKey, Settings
from serve.verbs.server_keys import read_client_key, read_key, read_server_keys
from tests.serve.gateway.test_gateway import BODY, Engine, check_error, gateway, send_request
from tests.tiny_models import Tiny

ANA, BEN = (hashlib.sha256(key.encode()).hexdigest() for key in ("ana's-key", "ben's-key"))


def test_a_key_is_known_by_its_digest_and_counted_by_its_limits() -> None:
    now = [0.0]
    access = Access(
        [NamedKey.parse(f"ana {ANA} 2/minute 3/day"), NamedKey.parse(f"ben {BEN}")], Sqlite(), lambda: now[0]
    )
    ana, ben = access.find("ana's-key"), access.find("ben's-key")
    assert ana and ben and (ana.name, ben.name) == ("ana", "ben")
    assert access.find("other") is None and access.find(ANA) is None and access.find("") is None
    for _ in range(2):
        access.admit(ana)
    with pytest.raises(ApiError, match="key ana: 2 requests a minute are its limit; try again in 60 s") as error:
        access.admit(ana)
    assert error.value.status == 429 and error.value.headers == {"retry-after": "60"}
    for _ in range(9):
        access.admit(ben)
    now[0] = 65.0  # the next minute
    access.admit(ana)
    with pytest.raises(ApiError, match="3 requests a day"):
        access.admit(ana)
    now[0] = 86_400.0
    access.admit(ana)


def test_prompts_are_counted_all_or_none() -> None:
    access = Access([key := NamedKey.parse(f"ana {ANA} 9/minute 10/day")], Sqlite(), lambda: 86_400.0)
    for _ in range(2):
        with pytest.raises(ApiError, match="9 requests a minute are its limit, and each prompt is one; send fewer"):
            access.admit(key, 10)
        access.admit(key, 4)
    with pytest.raises(ApiError, match="9 requests a minute"):
        access.admit(key, 2)
    access.admit(key)
    assert access.use_by_day() == [{"name": "ana", "number": 1, "requests": 9}]


def test_a_completion_counts_its_prompts_against_its_key(tiny: Tiny) -> None:
    app = gateway(tiny, Engine(), key="own", keys=(NamedKey.parse(f"ana {ANA} 5/minute"),))
    headers = {"authorization": "Bearer ana's-key"}
    assert send_request(app, "POST", "/v1/completions", json={"prompt": ["a"] * 4}, headers=headers).is_success
    error = check_error(send_request(app, "POST", "/v1/completions", json={"prompt": ["a", "b"]}, headers=headers),
                        429, "rate_limit_exceeded")  # fmt: skip
    assert "key ana: 5 requests a minute" in error["message"]
    assert send_request(app, "POST", "/v1/completions", json={"prompt": ["a"]}, headers=headers).is_success


@pytest.mark.parametrize("refused", ['{"prompt": ["a", "a", "a", "a"]}', "{"])
def test_a_completion_that_is_refused_uses_up_nothing(tiny: Tiny, refused: str) -> None:
    limits = Limits(requests_in_flight=3)
    app = gateway(tiny, Engine(), key="own", keys=(NamedKey.parse(f"ana {ANA} 5/minute"),), limits=limits)
    headers = {"authorization": "Bearer ana's-key"}
    for _ in range(3):
        as_json = headers | {"content-type": "application/json"}
        assert send_request(app, "POST", "/v1/completions", content=refused, headers=as_json).status_code == 400
    for prompts in (["a"] * 3, ["a"] * 2):
        assert send_request(app, "POST", "/v1/completions", json={"prompt": prompts}, headers=headers).is_success
    check_error(send_request(app, "POST", "/v1/chat/completions", json=BODY, headers=headers), 429,
                "rate_limit_exceeded")  # fmt: skip


def test_quotas_hold_over_restarts_and_over_servers_of_one_store(tmp_path: Path) -> None:
    key, file = NamedKey.parse(f"ana {ANA} 5/minute 7/day"), tmp_path / "feedback.sqlite"
    now = 86_400.0

    def server() -> Access:
        return Access([key], Sqlite(file, synced=False), lambda: now)

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda access: access.admit(key), [server() for _ in range(5)]))
    with pytest.raises(ApiError, match="5 requests a minute"):
        server().admit(key)
    now += 60
    server().admit(key)
    server().admit(key)
    for _ in range(2):  # a request that is refused counts in no window
        with pytest.raises(ApiError, match="7 requests a day"):
            server().admit(key)
    assert server().use_by_day() == [{"name": "ana", "number": 1, "requests": 7}]
    (minute,) = Sqlite(file).execute("SELECT * FROM key_use WHERE window_s = 60")
    assert (minute["number"], minute["requests"]) == (1441, 2)


def test_a_file_of_keys_holds_one_key_or_lines_with_digests(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("the-key\n")
    assert read_server_keys(file) == {"key": "the-key"} and read_key(file) == "the-key"
    file.write_text(f"# who\nana {ANA} 60/minute\n\nben {BEN}\n")
    settings = read_server_keys(file)
    assert [key.name for key in settings["keys"]] == ["ana", "ben"] and len(settings["key"]) >= 24
    with pytest.raises(UserError, match="holds the digests of a server's keys; expected the key itself"):
        read_key(file)
    two = f"ana {ANA}\nben {ANA}\n"
    for text, problem in ((two, "ana and ben have the same key"), (f"ana:{ANA}\n", "1 lines, each one word"),
                          ("one-key\nanother-key\n", "2 lines, each one word")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(UserError, match=problem):
            read_server_keys(file)
    for line in ("ana my-secret", f"ana {ANA} my-secret"):
        file.write_text(line)
        with pytest.raises(UserError) as error:
            read_server_keys(file)
        assert "secret" not in str(error.value)
    problems = {"ana abc": "expected the SHA-256", f"ana {ANA} 60": "expected a limit such as 60/minute",
                f"ana {ANA} 5/day 6/day": "each once", f"ana {ANA} 0/day": "expected a limit"}  # fmt: skip
    for line, problem in problems.items():
        file.write_text(f"ben {BEN}\n{line}\n")
        with pytest.raises(UserError, match=rf"keys: line 2: .*{problem}.*expected NAME SHA256"):
            read_server_keys(file)
    file.write_text(f"ana {ANA}\nana {BEN}\n")
    with pytest.raises(UserError, match="two keys are named ana"):
        read_server_keys(file)


def test_a_gateway_admits_named_keys_within_their_limits(tiny: Tiny) -> None:
    keys = (NamedKey.parse(f"ana {ANA} 1/day"), NamedKey.parse(f"ben {BEN}"))
    app = gateway(tiny, Engine(), key="of-the-server", host="0.0.0.0", keys=keys)
    app._access = Access(keys, Sqlite(), lambda: 0.0)  # no midnight between two requests
    path = "/v1/chat/completions"

    def send(key: str) -> int:
        return send_request(app, "POST", path, json=BODY, headers={"authorization": f"Bearer {key}"}).status_code

    assert [send(key) for key in ("ana's-key", "ben's-key", "of-the-server", ANA)] == [200, 200, 200, 401]
    response = send_request(app, "POST", path, json=BODY, headers={"authorization": "Bearer ana's-key"})
    check_error(response, 429, "rate_limit_exceeded")
    assert int(response.headers["retry-after"]) > 0 and send("ben's-key") == 200
    assert "ana's-key" not in app._settings.model_dump_json()


def test_named_keys_alone_leave_no_port_open(tiny: Tiny) -> None:
    keys = (NamedKey.parse(f"ana {ANA}"),)
    with pytest.raises(UserError, match="expected a key too"):
        Settings(model=tiny.first, keys=keys).check()
    app = gateway(tiny, Engine(), keys=keys)
    check_error(send_request(app, "POST", "/v1/chat/completions", json=BODY), 401, "invalid_api_key")
    headers = {"authorization": "Bearer ana's-key"}
    assert send_request(app, "POST", "/v1/chat/completions", json=BODY, headers=headers).status_code == 200


def test_the_keys_of_the_documentation_open_no_server(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^    # NAME .*\n((?:    .*\n)+)", text, re.MULTILINE)
    assert len(example.splitlines()) == 2
    for number, line in enumerate(example.splitlines()):
        (file := tmp_path / f"{number}.txt").write_text(line)
        with pytest.raises(UserError, match="the second word is no digest"):
            read_server_keys(file)


def test_a_key_is_sent_to_another_host_over_http_only_where_that_is_allowed(tmp_path: Path) -> None:
    (file := tmp_path / "key.txt").write_text("the-key")
    for url in ("http://model.example:8000", "model.example:8000", "HTTP://10.0.0.7/v1", "http://127.0.0.1.example"):
        with pytest.raises(UserError, match="over http://, where others can read it on its way; expected https://"):
            read_client_key(file, url, plain_http=False)
        assert read_client_key(file, url, plain_http=True) == "the-key"
        assert read_client_key(None, url, plain_http=False) is None
    for url in (None, "https://model.example", "http://127.0.0.1:8000/v1", "localhost:8000", "http://[::1]:8000"):
        assert read_client_key(file, url, plain_http=False) == "the-key"


@pytest.mark.parametrize("verb", ["chat", "top"])
def test_chat_and_top_refuse_to_send_a_key_in_clear(verb: str, tmp_path: Path) -> None:
    (file := tmp_path / "key.txt").write_text("the-key")
    done = CliRunner().invoke(cli.app, [verb, "--url", "http://model.invalid:8000", "--key-file", str(file)])
    assert done.exit_code == 2 and "expected https://, or --plain-http" in done.output
