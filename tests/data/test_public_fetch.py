"""Transfers of public files, over loopback."""

import gzip
import hashlib
import http.server
import json
import threading

import pytest
from public_files import etag, json_lines, movielens_zip, serving

from laser_peft.data.public.fetch import LOCK_FILE, Source, fetch


@pytest.fixture
def server():
    with serving() as server:
        yield server


def test_a_file_is_downloaded_once_and_remembered(server, tmp_path):
    server.files["a.json.gz"] = content = json_lines({"a": 1})
    source = Source(f"{server.url}/a.json.gz")
    for _ in range(2):
        path = fetch(source, tmp_path / "raw", progress=False)
        assert path.read_bytes() == content
    assert server.asked == [None]
    assert json.loads((tmp_path / "raw" / LOCK_FILE).read_text()) == {
        "a.json.gz": {
            "url": source.url,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    }


def test_progress_is_shown_when_asked_for(server, tmp_path, capsys):
    server.files["a.json.gz"] = json_lines({"a": 1})
    fetch(Source(f"{server.url}/a.json.gz"), tmp_path)
    assert "a.json.gz: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_an_interrupted_transfer_is_kept_apart_and_then_made_whole(server, tmp_path, takes_ranges):
    server.files["a.json.gz"] = content = gzip.compress(bytes(range(256)) * 7, mtime=0)
    server.breaks_at, server.takes_ranges = 101, takes_ranges
    source = Source(f"{server.url}/a.json.gz")
    message = (
        rf"cannot download {source.url}: the transfer stopped at 101 of {len(content)} bytes. "
        rf"Run the same again, which goes on behind the 101 bytes .* put it at .*a.json.gz and run"
    )
    with pytest.raises(ConnectionError, match=message):
        fetch(source, tmp_path, progress=False)
    assert {file.name for file in tmp_path.iterdir()} == {
        "a.json.gz.part",
        "a.json.gz.part.version",
    }
    assert fetch(source, tmp_path, progress=False).read_bytes() == content
    assert server.asked == [None, "bytes=101-"]
    assert {file.name for file in tmp_path.iterdir()} == {"a.json.gz", LOCK_FILE}


DATE = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}


@pytest.mark.parametrize(
    ("version", "asked"),
    [
        (lambda content: DATE, "bytes=101-"),
        (lambda content: {"ETag": 'W/"1"'} | DATE, "bytes=101-"),
        (lambda content: {"ETag": 'W/"1"'}, None),
        (lambda content: {}, None),
    ],
)
def test_only_a_version_that_can_be_named_is_gone_on_with(server, tmp_path, version, asked):
    server.files["a.json.gz"] = content = gzip.compress(bytes(range(256)) * 7, mtime=0)
    server.breaks_at, server.version = 101, version
    source = Source(f"{server.url}/a.json.gz")
    message = "goes on behind the 101 bytes" if asked else "Run the same again; or download"
    with pytest.raises(ConnectionError, match=message):
        fetch(source, tmp_path, progress=False)
    assert fetch(source, tmp_path, progress=False).read_bytes() == content
    assert server.asked == [None, asked]


def test_a_file_that_was_replaced_meanwhile_is_started_again(server, tmp_path):
    old, new = (gzip.compress(bytes(range(first, 256)) * 7, mtime=0) for first in (0, 1))
    server.files["a.json.gz"], server.breaks_at = old, 101
    source = Source(f"{server.url}/a.json.gz")
    with pytest.raises(ConnectionError, match="stopped at 101"):
        fetch(source, tmp_path, progress=False)
    server.files["a.json.gz"] = new
    assert fetch(source, tmp_path, progress=False).read_bytes() == new


def left(tmp_path, content):
    """What a run that was stopped leaves."""
    (tmp_path / "a.json.gz.part").write_bytes(content)
    (tmp_path / "a.json.gz.part.version").write_text(etag(content)["ETag"])


def test_a_part_that_is_whole_is_not_downloaded_again(server, tmp_path):
    server.files["a.json.gz"] = content = json_lines({"a": 1})
    left(tmp_path, content)
    source = Source(f"{server.url}/a.json.gz")
    assert fetch(source, tmp_path, progress=False).read_bytes() == content
    assert server.asked == [f"bytes={len(content)}-"]


def test_a_part_longer_than_the_file_is_started_again(server, tmp_path):
    server.files["a.json.gz"] = content = json_lines({"a": 1})
    left(tmp_path, content + b"more")
    server.version = lambda _: etag(content + b"more")
    source = Source(f"{server.url}/a.json.gz")
    assert fetch(source, tmp_path, progress=False).read_bytes() == content
    assert server.asked == [f"bytes={len(content) + 4}-", None]


@pytest.mark.parametrize(
    ("name", "content", "damaged"),
    [
        ("a.json.gz", json_lines({"a": 1}), slice(-9)),
        ("a.zip", movielens_zip("1::2", ""), slice(-9)),
    ],
)
def test_a_damaged_first_file_is_not_remembered(server, tmp_path, name, content, damaged):
    source, path = Source(f"{server.url}/{name}"), tmp_path / name
    path.write_bytes(content[damaged])
    with pytest.raises(ValueError, match=f"{name} is damaged or not whole .*; remove it and run"):
        fetch(source, tmp_path, progress=False)
    path.write_bytes(content)
    assert fetch(source, tmp_path, progress=False) == path


def test_a_zip_whose_content_is_damaged_is_not_remembered(server, tmp_path):
    content = movielens_zip("1::2::3::4", "")
    (tmp_path / "a.zip").write_bytes(content.replace(b"1::2::3::4", b"1::2::3::5"))
    with pytest.raises(ValueError, match="ml-1m/ratings.dat in it has another check sum"):
        fetch(Source(f"{server.url}/a.zip"), tmp_path, progress=False)


def test_a_damaged_transfer_is_removed(server, tmp_path):
    server.files["a.json.gz"] = json_lines({"a": 1})[:-9]
    with pytest.raises(ValueError, match="a.json.gz is damaged or not whole"):
        fetch(Source(f"{server.url}/a.json.gz"), tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"), [("", "is no JSON .*; remove it"), ("[1]", r"holds no JSON .* \[1\]; rem")]
)
def test_checksums_that_cannot_be_read_are_named(server, tmp_path, text, message):
    (tmp_path / LOCK_FILE).write_text(text)
    with pytest.raises(ValueError, match=f"{LOCK_FILE} {message}"):
        fetch(Source(f"{server.url}/a.json.gz"), tmp_path, progress=False)
    assert not server.asked


def test_what_cannot_be_written_is_not_the_networks_fault(server, tmp_path):
    server.files["a.json.gz"] = json_lines({"a": 1})
    (tmp_path / "a.json.gz.part").mkdir()
    with pytest.raises(OSError, match=r"cannot write .*a.json.gz.part: Is a directory. Make room"):
        fetch(Source(f"{server.url}/a.json.gz"), tmp_path, progress=False)


def test_a_published_checksum_is_checked(server, tmp_path):
    server.files["a.zip"] = content = movielens_zip("", "")
    url = f"{server.url}/a.zip"
    right = hashlib.md5(content).hexdigest()
    with pytest.raises(ValueError, match=f"has md5 {right}, and should have {'0' * 32}: the file"):
        fetch(Source(url, md5="0" * 32), tmp_path, progress=False)
    assert not list(tmp_path.iterdir())  # nothing that a second run would take for right
    assert fetch(Source(url, md5=right), tmp_path, progress=False).is_file()


def test_a_given_checksum_is_checked(server, tmp_path):
    server.files["a.zip"] = content = movielens_zip("", "")
    source = Source(f"{server.url}/a.zip")
    right = hashlib.sha256(content).hexdigest()
    with pytest.raises(ValueError, match=f"has sha256 {right}, .* or you, gave the checksum"):
        fetch(source, tmp_path, sha256="0" * 64, progress=False)
    assert fetch(source, tmp_path, sha256=right.upper(), progress=False).is_file()


def test_a_file_that_changed_after_the_first_time_is_refused(server, tmp_path):
    server.files["a.json.gz"] = json_lines({"a": 1})
    source = Source(f"{server.url}/a.json.gz")
    path = fetch(source, tmp_path, progress=False)
    path.write_bytes(json_lines({"a": 2}))
    with pytest.raises(ValueError, match="damaged or another version. Remove .*a.json.gz if"):
        fetch(source, tmp_path, progress=False)
    path.unlink()
    server.files["a.json.gz"] = json_lines({"a": 3})  # the publisher's may not change either
    with pytest.raises(ValueError, match="checksums.json beside it, or you, gave the checksum"):
        fetch(source, tmp_path, progress=False)


def test_a_missing_address_is_said(server, tmp_path):
    message = rf"cannot download {server.url}/b.json.gz: the server answered 404 Not Found. Run"
    with pytest.raises(ConnectionError, match=message):
        fetch(Source(f"{server.url}/b.json.gz"), tmp_path, progress=False)


def test_a_refused_connection_says_what_to_do_by_hand(server, tmp_path):
    server.shutdown()
    server.server_close()
    url = f"{server.url}/a.json.gz"
    message = (
        rf"cannot download {url}: .*Connection refused. Run the same again; or download the file "
        rf"by hand, put it at {tmp_path}/a.json.gz and run the same again"
    )
    with pytest.raises(ConnectionError, match=message):
        fetch(Source(url), tmp_path, progress=False)
    (tmp_path / "a.json.gz").write_bytes(json_lines({"a": 1}))
    assert fetch(Source(url), tmp_path, progress=False).is_file()


def test_a_server_that_hangs_up_is_said(tmp_path):
    class HangsUp(http.server.BaseHTTPRequestHandler):
        def handle(self):
            self.rfile.readline()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), HangsUp) as httpd:
        thread = threading.Thread(target=httpd.handle_request)
        thread.start()
        with pytest.raises(ConnectionError, match="the connection was lost"):
            fetch(Source(f"http://127.0.0.1:{httpd.server_port}/a.zip"), tmp_path, progress=False)
        thread.join()


def test_a_web_page_instead_of_the_file_is_said(server, tmp_path):
    server.files["a.json.gz"] = b"<!DOCTYPE html><title>Sorry</title>"
    with pytest.raises(ValueError, match=r"is no .gz file; it begins with b'<!DOCTYPE html>"):
        fetch(Source(f"{server.url}/a.json.gz"), tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
