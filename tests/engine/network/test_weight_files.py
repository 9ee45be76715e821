"""Official weights, fetched from a server on this computer that fails on demand."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
from tests.weights_server import (
    CONTENT,
    NAME,
    cut,
    hold,
    offer_fake,
    serving,
    status,
    without_parts,
)

from medsaga import MedsagaError, Stop, drain
from medsaga.events import FileProgress, Notice
from medsaga.frontend import (
    fetch_weights,
    import_weights,
    missing_weights,
    verify_weights,
    weight_files,
    weights_folder,
)
from medsaga.network.backbones import fetching
from medsaga.network.backbones.catalogue import find_checkpoint

MB = 1 << 20


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving() as server:
        offer_fake(monkeypatch, server.url, tmp_path / "home")
        yield server


def visible(folder: Path) -> set[str]:
    """What lies in a folder under a name that anybody would take for a file's."""
    return {p.name for p in folder.iterdir() if not p.name.startswith(".")}


def leftovers(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.endswith(".lock")}


def refusal(stream) -> str:
    with pytest.raises(MedsagaError) as caught:
        drain(stream)
    sentence = str(caught.value)
    assert sentence.count(". ") == 0
    return sentence


def test_weights_are_fetched_once(server):
    assert "download vit_b" in missing_weights("vit_b")
    events = []
    path = drain(fetch_weights("vit_b"), events.append)
    assert path == weights_folder() / NAME
    assert path.read_bytes() == CONTENT
    assert leftovers(path.parent) == {NAME}
    last = events[-1]
    assert isinstance(last, FileProgress)
    assert (last.name, last.done, last.total) == ("vit_b", len(CONTENT), len(CONTENT))
    assert missing_weights("vit_b") is None
    assert find_checkpoint("vit_b") == path
    assert drain(fetch_weights("vit_b")) == path
    assert server.asked == [None]


def test_the_folder_that_the_environment_names(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSAGA_WEIGHTS", str(tmp_path / "mine"))
    assert drain(fetch_weights("vit_b")) == tmp_path / "mine" / NAME


def test_a_cut_connection_is_gone_on_from_where_it_was(server):
    server.answers += [cut(MB + 5), cut(2 * MB)]
    events = []
    path = drain(fetch_weights("vit_b"), events.append)
    assert path.read_bytes() == CONTENT
    assert server.asked[0] is None
    assert all(asked.startswith("bytes=") for asked in server.asked[1:])
    assert len(server.asked) == 3
    notices = [e.message for e in events if isinstance(e, Notice)]
    assert len(notices) == 2
    assert "the connection was cut" in notices[0]
    assert notices[0].endswith("that came are kept.")


def test_what_came_is_kept_for_a_later_call(server):
    server.answers += [cut(MB), cut(MB), cut(2 * MB)]
    sentence = refusal(fetch_weights("vit_b"))
    assert "the connection was cut, the 2 MB that came are kept" in sentence
    assert_by_hand(sentence, server.url)
    assert visible(weights_folder()) == set()
    assert drain(fetch_weights("vit_b")).read_bytes() == CONTENT
    assert server.asked[-1].startswith("bytes=")


def assert_by_hand(sentence: str, url: str) -> None:
    """It says what to do without this connection."""
    assert sentence.startswith(f"{NAME} cannot be fetched (")
    assert f"fetch {url}" in sentence
    assert str(weights_folder()) in sentence
    assert "medsaga weights import FILE" in sentence


def test_a_server_that_knows_no_parts_sends_it_all_again(server):
    server.answers += [cut(2 * MB), without_parts]
    assert drain(fetch_weights("vit_b")).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_wrong_checksum_is_not_kept(server):
    server.content = CONTENT[:-1] + b"x"
    sentence = refusal(fetch_weights("vit_b"))
    assert "another SHA-256" in sentence
    assert_by_hand(sentence, server.url)
    assert leftovers(weights_folder()) == set()


def test_a_part_of_another_file_costs_one_fetch_anew(server):
    weights_folder().mkdir(parents=True)
    (weights_folder() / f".{NAME}.part").write_bytes(b"x" * MB)
    assert drain(fetch_weights("vit_b")).read_bytes() == CONTENT
    assert server.asked == [f"bytes={MB}-", None]
    assert leftovers(weights_folder()) == {NAME}


@pytest.mark.parametrize("n_bytes", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_that_is_as_long_as_the_file(server, n_bytes):
    """The process was killed before it looked at what it had."""
    weights_folder().mkdir(parents=True)
    part = weights_folder() / f".{NAME}.part"
    part.write_bytes((CONTENT + b"more!")[:n_bytes])
    assert drain(fetch_weights("vit_b")).read_bytes() == CONTENT
    assert len(server.asked) == (n_bytes != len(CONTENT))


def test_another_length_is_refused_before_anything_is_kept(server):
    server.content = b"<html>Please log in</html>"
    sentence = refusal(fetch_weights("vit_b"))
    assert "26 bytes there in place of 3,145,728" in sentence
    assert_by_hand(sentence, server.url)
    assert leftovers(weights_folder()) == set()


def test_a_server_that_sends_without_end_is_left(server):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        for _ in range(5):
            handler.wfile.write(CONTENT)

    server.answers += [endless]
    assert "sends more than" in refusal(fetch_weights("vit_b"))
    assert leftovers(weights_folder()) == set()


def test_a_server_that_is_busy_is_asked_again(server):
    server.answers += [status(503), status(416)]
    events = []
    assert drain(fetch_weights("vit_b"), events.append).read_bytes() == CONTENT
    (first, _) = [e.message for e in events if isinstance(e, Notice)]
    assert "answers 503 Service Unavailable" in first


@pytest.mark.parametrize(("code", "n_asked"), [(404, 1), (500, 3)])
def test_a_server_that_refuses(server, code, n_asked):
    server.answers += [status(code)] * n_asked
    sentence = refusal(fetch_weights("vit_b"))
    assert f"answers {code}" in sentence
    assert_by_hand(sentence, server.url)
    assert len(server.asked) == n_asked
    assert leftovers(weights_folder()) == set()


def test_without_a_network(server, monkeypatch, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/{NAME}"
    offer_fake(monkeypatch, url, tmp_path / "home")
    sentence = refusal(fetch_weights("vit_b"))
    assert "there is no connection to 127.0.0.1:" in sentence
    assert_by_hand(sentence, url)


def test_a_name_that_is_not_found(server, monkeypatch, tmp_path):
    url = f"http://no-such-host.invalid/{NAME}"
    offer_fake(monkeypatch, url, tmp_path / "home")
    sentence = refusal(fetch_weights("vit_b"))
    assert "there is no connection to no-such-host.invalid" in sentence


def test_a_proxy_that_is_not_there(server, monkeypatch, tmp_path):
    url = f"http://no-such-host.invalid/{NAME}"
    offer_fake(monkeypatch, url, tmp_path / "home")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    sentence = refusal(fetch_weights("vit_b"))
    assert "the proxy of HTTPS_PROXY" in sentence
    assert_by_hand(sentence, url)


def test_a_server_without_a_certificate(server, monkeypatch, tmp_path):
    url = server.url.replace("http:", "https:")
    offer_fake(monkeypatch, url, tmp_path / "home")
    sentence = refusal(fetch_weights("vit_b"))
    assert "there is no secure connection to 127.0.0.1:" in sentence
    assert "REQUESTS_CA_BUNDLE" in sentence
    assert_by_hand(sentence, url)


def test_a_server_that_says_nothing(server, monkeypatch):
    monkeypatch.setattr(fetching, "_SECONDS_OF_SILENCE", 0.2)
    monkeypatch.setattr(fetching, "_PAUSES", ())
    server.answers += [hold(MB)]
    sentence = refusal(fetch_weights("vit_b"))
    assert "said nothing for" in sentence
    assert "the 1 MB that came are kept" in sentence


def test_a_stop_in_the_middle_is_gone_on_from(server):
    server.answers += [hold(2 * MB)]
    stream = fetch_weights("vit_b")
    began = time.monotonic()
    for event in stream:
        if isinstance(event, FileProgress) and event.done >= MB:
            break
        assert time.monotonic() - began < 30
    with pytest.raises(StopIteration) as ended:
        stream.throw(Stop())
    assert ended.value.value is None
    assert visible(weights_folder()) == set()
    # What was stopped while it waited for the server keeps nothing of what comes then.
    server.go_on.set()
    assert drain(fetch_weights("vit_b")).read_bytes() == CONTENT
    assert server.asked[-1].startswith("bytes=")


def test_a_stop_between_two_steps_ends_both(server):
    """It comes when a file has just been looked at, and nothing further is begun."""
    for stream in (fetch_weights("vit_b"), verify_weights(["vit_b", "vit_l"])):
        next(stream)
        with pytest.raises(StopIteration) as ended:
            stream.throw(Stop())
        assert ended.value.value is None or len(ended.value.value) == 1
    assert server.asked == []


def test_a_disk_that_is_too_small(server, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 8, 1_000_000))
    sentence = refusal(fetch_weights("vit_b"))
    assert "takes 3 MB" in sentence
    assert "1 MB free: make room there" in sentence
    assert server.asked == []


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of Unix")
def test_a_disk_that_fills_up(server):
    """What came stays, for when there is room again."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MB, limits[1]))
    try:
        sentence = refusal(fetch_weights("vit_b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written (File too large): make room there" in sentence
    assert visible(weights_folder()) == set()
    assert drain(fetch_weights("vit_b")).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={MB}-"]


def test_a_page_to_log_in_on_costs_nothing_of_what_came(server):
    server.answers += [cut(2 * MB)] * 3 + [page]
    refusal(fetch_weights("vit_b"))
    part = weights_folder() / f".{NAME}.part"
    n_bytes = part.stat().st_size
    assert n_bytes >= MB
    sentence = refusal(fetch_weights("vit_b"))
    assert "what is sent is a page" in sentence
    assert part.stat().st_size == n_bytes
    assert drain(fetch_weights("vit_b")).read_bytes() == CONTENT


def page(handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html; charset=utf-8")
    handler.end_headers()
    handler.close_connection = True
    handler.wfile.write(b"<html>Please log in</html>")


def test_a_bundle_of_certificates_that_is_not_there(server, monkeypatch, tmp_path):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "absent.pem"))
    url = server.url.replace("http:", "https:")
    offer_fake(monkeypatch, url, tmp_path / "home")
    sentence = refusal(fetch_weights("vit_b"))
    assert str(tmp_path / "absent.pem") in sentence
    assert_by_hand(sentence, url)


def test_a_folder_that_cannot_be_made(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDSAGA_WEIGHTS", str(tmp_path / "file" / "inside"))
    assert "cannot be written" in refusal(fetch_weights("vit_b"))


OTHER_PROCESS = """
import pytest, sys
from tests.weights_server import offer
from medsaga import drain
from medsaga.events import Notice
from medsaga.frontend import fetch_weights
say = lambda event: isinstance(event, Notice) and print(event.message, flush=True)
with pytest.MonkeyPatch.context() as patch:
    offer(patch, sys.argv[1])
    print(drain(fetch_weights("vit_b"), say))
"""


def test_two_processes_at_once_fetch_it_once(server, repository):
    server.answers += [hold(MB)]

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OTHER_PROCESS, server.url]
        return subprocess.Popen(
            command, cwd=repository, stdout=subprocess.PIPE, text=True
        )

    with start() as first:
        while not server.asked:
            assert first.poll() is None
            time.sleep(0.05)
        with start() as second:
            assert "waiting until it is done" in second.stdout.readline()
            server.go_on.set()
            said = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert [lines.strip() for lines in said] == [str(weights_folder() / NAME)] * 2
    assert (weights_folder() / NAME).read_bytes() == CONTENT
    assert server.asked == [None]


def test_a_second_call_waits_until_the_first_is_done(server):
    server.answers += [hold(MB)]
    first = fetch_weights("vit_b")
    while not server.asked:
        next(first)
    events = []

    def on_event(event):
        events.append(event)
        if isinstance(event, Notice):
            server.go_on.set()

    path = drain(fetch_weights("vit_b"), on_event)
    assert drain(first) == path
    assert "waiting until it is done" in events_said(events)
    assert server.asked == [None]


def events_said(events) -> str:
    return " ".join(e.message for e in events if isinstance(e, Notice))


def test_a_damaged_file_is_listed_and_fetched_anew(server):
    path = drain(fetch_weights("vit_b"))
    path.write_bytes(CONTENT[:-1] + b"x")
    (listed,) = [row for row in weight_files() if row.name == "vit_b"]
    assert listed.state == "here"  # by name and size
    (verified,) = drain(verify_weights(["vit_b"]))
    assert (verified.state, verified.path) == ("damaged", path)
    assert "run medsaga weights download vit_b" in verified.problem
    path.write_bytes(b"cut")
    (listed,) = [row for row in weight_files() if row.name == "vit_b"]
    assert listed.state == "damaged"
    assert drain(fetch_weights("vit_b")).read_bytes() == CONTENT


def test_a_whole_file_is_preferred_to_a_cut_one(server, tmp_path, monkeypatch):
    path = drain(fetch_weights("vit_b"))
    monkeypatch.setenv("MEDSAGA_WEIGHTS", str(tmp_path))
    (tmp_path / NAME).write_bytes(b"cut")
    assert find_checkpoint("vit_b") == path


def test_all_weights_are_listed(server):
    rows = {row.name: row for row in weight_files()}
    assert list(rows) == ["lite_medsam", "vit_b", "vit_l", "vit_h"]
    assert rows["lite_medsam"].state == "here"
    assert rows["lite_medsam"].url is None
    assert rows["vit_b"].state == "missing"
    assert rows["vit_b"].url == server.url
    assert rows["vit_b"].problem == missing_weights("vit_b")
    assert {row.licence for row in rows.values()} == {"Apache-2.0"}
    verified = drain(verify_weights())
    assert [row.state for row in verified] == ["here", *["missing"] * 3]


def test_what_comes_with_the_installation_is_not_fetched(server):
    assert drain(fetch_weights("lite_medsam")) == find_checkpoint("lite_medsam")


@pytest.mark.parametrize("name", ["vit_x", "tiny", "medsam.pth"])
def test_there_is_no_such_backbone(name):
    for stream in (fetch_weights(name), verify_weights([name])):
        assert "choose lite_medsam, vit_b, vit_l, vit_h" in refusal(stream)


def test_a_file_is_imported_by_its_content(server, tmp_path):
    file = tmp_path / "any name"
    file.write_bytes(CONTENT)
    path = drain(import_weights(file))
    assert path == find_checkpoint("vit_b")
    assert file.read_bytes() == CONTENT
    assert leftovers(path.parent) == {NAME}
    assert drain(import_weights(path)) == path
    assert server.asked == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("medsam.pth", b"of another length", "--backbone"),
        ("medsam.pth", b"x" * len(CONTENT), "--backbone"),
        (NAME, CONTENT[:-100], "has 3,145,628 bytes and not 3,145,728"),
    ],
)
def test_another_file_is_not_imported(server, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    sentence = refusal(import_weights(tmp_path / name))
    assert said in sentence
    assert str(tmp_path / name) in sentence
    assert not weights_folder().exists() or leftovers(weights_folder()) == set()


def test_an_import_that_is_stopped_or_impossible(server, tmp_path, monkeypatch):
    assert "There is no file" in refusal(import_weights(tmp_path / "absent"))
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    lock = threading.Event()
    monkeypatch.setattr(
        "medsaga.network.backbones.file_work.Report.begin",
        lambda self, *_: lock.wait(0.3),
    )
    stream = import_weights(file)
    next(stream)
    with pytest.raises(StopIteration) as ended:
        stream.throw(Stop())
    assert ended.value.value is None
    assert leftovers(weights_folder()) == set()
