"""Public data sets: true transfers over loopback, and files made in the published formats."""

import gzip
import hashlib
import http.server
import io
import json
import threading
import zipfile
from dataclasses import replace

import polars as pl
import pytest
from conftest import run_command

from laser_peft.data import Catalogue, Histories, public, read_interactions
from laser_peft.data.public import amazon, movielens
from laser_peft.data.public.building import build_items
from laser_peft.data.public.fetch import LOCK_FILE, Source, fetch
from laser_peft.data.public.known import KNOWN
from laser_peft.data.public.records import Item


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.files``, with ranges; may break off, refuse ranges or answer a page."""

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        content = server.files.get(self.path.rsplit("/", 1)[-1])
        if content is None:
            self.send_error(404)
            return
        start = 0
        if "Range" in self.headers and server.takes_ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if server.breaks_at is None else server.breaks_at
        server.breaks_at = None  # only the first transfer breaks off
        self.wfile.write(content[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.files, httpd.asked = {}, []
        httpd.takes_ranges, httpd.breaks_at = True, None
        httpd.url = f"http://127.0.0.1:{httpd.server_port}/data"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def zipped_lines(*rows):
    return gzip.compress("\n".join(rows).encode(), mtime=0)


def json_lines(*rows):
    return zipped_lines(*map(json.dumps, rows))


def python_lines(*rows):
    return zipped_lines(*map(repr, rows))


def movielens_zip(ratings, movies):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ml-1m/ratings.dat", ratings.encode("latin-1"))
        archive.writestr("ml-1m/movies.dat", movies.encode("latin-1"))
    return file.getvalue()


def saved(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def review(user, item, time):
    return {"reviewerID": user, "asin": item, "reviewText": "so\nso", "unixReviewTime": time}


# The transfer


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
    assert [file.name for file in tmp_path.iterdir()] == ["a.json.gz.part"]
    assert fetch(source, tmp_path, progress=False).read_bytes() == content
    assert server.asked == [None, "bytes=101-"]
    assert not (tmp_path / "a.json.gz.part").exists()


def test_a_part_longer_than_the_file_is_started_again(server, tmp_path):
    server.files["a.json.gz"] = content = json_lines({"a": 1})
    (tmp_path / "a.json.gz.part").write_bytes(content + b"more")
    assert (
        fetch(Source(f"{server.url}/a.json.gz"), tmp_path, progress=False).read_bytes() == content
    )
    assert server.asked == [f"bytes={len(content) + 4}-", None]


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


# The formats


def test_reviews_keep_the_order_of_the_file(tmp_path):
    rows = [review("A2", "B01", 5), review("A1", "B01", 3), review("A2", "7806", 5)]
    path = saved(tmp_path, "reviews_Beauty_5.json.gz", json_lines(*rows))
    assert list(amazon.read_reviews(path)) == [
        ("A2", "B01", 5.0),
        ("A1", "B01", 3.0),
        ("A2", "7806", 5.0),
    ]


def test_metadata_of_2014_are_python_literals(tmp_path):
    rows = python_lines(
        {"asin": "B01", "title": "Burt's &quot;Bees&quot; &amp; \u00e9", "brand": "Burt's Bees",
         "categories": [["Beauty", "Skin"], ["Beauty", "Gifts &amp; Sets"]], "related": {"a": []}},
        {"asin": "B02", "categories": [["Beauty"]], "price": 3.5},
        {"title": "says 'asin': 'B02' itself", "asin": "B03", "brand": None},
    )  # fmt: skip
    path = saved(tmp_path, "meta_Beauty.json.gz", rows)
    expected = [
        ("B01", 'Burt\'s "Bees" & é', "Burt's Bees", ["Beauty", "Skin", "Gifts & Sets"]),
        ("B02", "", "", ["Beauty"]),
        ("B03", "says 'asin': 'B02' itself", "", []),
    ]
    assert list(amazon.read_items_2014(path, None)) == expected
    wanted = [item for item in amazon.read_items_2014(path, {"B03"}) if item[0] == "B03"]
    assert wanted == expected[2:]


def test_metadata_of_2014_are_never_run(tmp_path):
    path = saved(tmp_path, "meta_Beauty.json.gz", zipped_lines("__import__('os').getcwd()"))
    with pytest.raises(ValueError, match="meta_Beauty.json.gz, line 1: no Python dict .*malformed"):
        list(amazon.read_items_2014(path, None))


def test_metadata_of_2018_leave_out_what_is_no_text(tmp_path):
    rows = json_lines(
        {"category": ["Games", "</span></span>", "Toys &amp; Co"], "title": "A  &#39;game&#39;",
         "brand": "Alba", "asin": "B01"},
        {"category": [], "title": "var aPageStart = (new Date()).getTime();", "asin": "B02"},
    )  # fmt: skip
    path = saved(tmp_path, "meta_Video_Games.json.gz", rows)
    assert list(amazon.read_items_2018(path, None)) == [
        ("B01", "A 'game'", "Alba", ["Games", "Toys & Co"]),
        ("B02", "", "", []),
    ]


def test_ratings_of_2023_are_in_milliseconds(tmp_path):
    header = "user_id,parent_asin,rating,timestamp"
    rows = zipped_lines(header, "AG2,B01,5.0,1588687728923", "AG1,B02,1.0,0", "")
    path = saved(tmp_path, "Video_Games.csv.gz", rows)
    assert list(amazon.read_ratings(path)) == [
        ("AG2", "B01", 1588687728.923),
        ("AG1", "B02", 0.0),
    ]


def test_metadata_of_2023_say_the_store(tmp_path):
    rows = json_lines(
        {"main_category": "Games", "title": "A game", "store": "Alba", "categories": ["Games"],
         "parent_asin": "B01", "details": {"Brand": "x"}},
        {"title": None, "store": None, "categories": [], "parent_asin": "B02"},
    )  # fmt: skip
    path = saved(tmp_path, "meta_Video_Games.jsonl.gz", rows)
    assert list(amazon.read_items_2023(path, None)) == [
        ("B01", "A game", "Alba", ["Games"]),
        ("B02", "", "", []),
    ]


def test_movielens_is_latin_1_with_double_colons(tmp_path):
    content = movielens_zip(
        "1::73::5::978300760\r\n1::2::3::978302109\r\n",
        "2::Jumanji (1995)::Adventure|Children's\n73::Mis\u00e9rables, Les (1995)::Drama|Musical\n",
    )
    path = saved(tmp_path, "ml-1m.zip", content)
    assert list(movielens.read_ratings(path)) == [
        ("1", "73", 978300760.0),
        ("1", "2", 978302109.0),
    ]
    assert list(movielens.read_movies(path, None)) == [
        ("2", "Jumanji (1995)", "", ["Adventure", "Children's"]),
        ("73", "Misérables, Les (1995)", "", ["Drama", "Musical"]),
    ]


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (amazon.read_reviews, zipped_lines("{}", "nothing"), "line 1: a review needs reviewerID"),
        (amazon.read_reviews, zipped_lines("", "{'a': 1}"), "line 2: no JSON object .*{'a': 1}"),
        (amazon.read_reviews, zipped_lines("[1]"), r"line 1: no JSON object: '\[1\]'"),
        (
            amazon.read_reviews,
            json_lines(review("A", "B", "soon")),
            "line 1: a review needs .*could not convert string to float: 'soon'",
        ),
        (amazon.read_ratings, zipped_lines(""), r"should have the columns .*, got \[\]"),
        (amazon.read_ratings, zipped_lines("A,B,5.0,1"), r"should have the columns .*'5.0', '1'"),
        (
            amazon.read_ratings,
            zipped_lines("user_id,parent_asin,rating,timestamp", "A,B,5.0"),
            r"line 2: should be .*, got \['A', 'B', '5.0'\]",
        ),
        (lambda p: amazon.read_items_2014(p, None), python_lines({"title": "x"}), "needs asin"),
        (lambda p: amazon.read_items_2018(p, None), json_lines({"asin": ""}), "needs asin"),
        (lambda p: amazon.read_items_2023(p, None), json_lines({"asin": "B"}), "needs parent_asin"),
        (amazon.read_reviews, json_lines({"a": 1})[:-9], "damaged or not whole .*; remove it"),
        (movielens.read_ratings, b"PK\x03\x04", "damaged or not whole .*; remove it"),
        (movielens.read_ratings, movielens_zip("1::2::3", ""), "line 1: should be UserID::MovieID"),
        (movielens.read_ratings, movielens_zip("1::2::3::x", ""), "line 1: the time .* got 'x'"),
    ],
)
def test_what_is_not_in_the_published_format_is_named(tmp_path, read, content, message):
    with pytest.raises(ValueError, match=message):
        list(read(saved(tmp_path, "file", content)))


def test_a_zip_without_its_files_says_what_it_has(tmp_path):
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-100k/u.data", "")
    with pytest.raises(ValueError, match=r"has no ml-1m/ratings.dat; it has \['ml-100k/u.data'\]"):
        list(movielens.read_ratings(tmp_path / "ml-1m.zip"))


# The tables


REVIEWS = json_lines(
    review("A2", "B01", 700), review("A1", "B01", 300), review("A2", "B03", 700),
    review("A2", "B02", 500), review("A2", "B02", 500), review("A1", "B02", 200),
)  # fmt: skip
METADATA = python_lines(
    {"asin": "B09", "title": "Never reviewed"},
    {"asin": "B02", "title": "Second", "categories": [["Beauty", "Nails"]]},
    {"asin": "B02", "title": "Second again"},
    {"asin": "B01", "brand": "Alba"},
)


@pytest.fixture
def beauty(server, monkeypatch):
    """The known name, at a server of our own."""
    files = {"reviews_Beauty_5.json.gz": REVIEWS, "meta_Beauty.json.gz": METADATA}
    server.files.update(files)
    log, metadata = (Source(f"{server.url}/{name}") for name in files)
    dataset = replace(KNOWN["amazon-2014-beauty"], log=log, metadata=metadata)
    monkeypatch.setitem(KNOWN, dataset.name, dataset)
    return dataset.name


def test_a_download_gives_two_tables_and_counts_what_it_did(beauty, tmp_path):
    tables = public.download(beauty, tmp_path, progress=False)
    assert tables.counts == {
        "interactions": 6,
        "interactions_repeated": 1,
        "users": 2,
        "items": 3,
        "items_without_title": 2,
        "items_without_metadata": 1,
        "metadata_rows_repeated": 1,
        "metadata_rows_without_events_left_out": 1,
    }
    assert pl.read_parquet(tables.items).rows() == [
        ("B01", None, "Alba", None),
        ("B03", None, None, None),
        ("B02", "Second", None, ["Beauty", "Nails"]),
    ]
    told = json.loads((tmp_path / "dataset.json").read_text())
    assert told["name"] == beauty
    assert told["counts"] == tables.counts
    assert not list(tmp_path.rglob("*.part"))


def test_the_published_order_breaks_ties_of_time(beauty, tmp_path):
    tables = public.download(beauty, tmp_path, progress=False)
    log = read_interactions(tables.interactions)
    histories = Histories.from_interactions(log, Catalogue.read(tables.items))
    # B01 = 1, B03 = 2, B02 = 3. A2: B02 twice at 500, then B01 and B03 at 700, as in the file.
    assert histories.items.tolist() == [3, 3, 1, 2, 3, 1]


def test_items_without_events_are_kept_when_asked_for(beauty, tmp_path):
    tables = public.download(beauty, tmp_path, all_items=True, progress=False)
    assert Catalogue.read(tables.items).item_ids == ["B01", "B03", "B02", "B09"]
    assert tables.counts["metadata_rows_without_events_kept"] == 1
    assert tables.counts["items_without_metadata"] == 1


def test_a_second_run_downloads_nothing_and_gives_the_same(beauty, server, tmp_path):
    first = public.download(beauty, tmp_path, progress=False)
    content = first.interactions.read_bytes(), first.items.read_bytes()
    assert public.download(beauty, tmp_path, progress=False).counts == first.counts
    assert (first.interactions.read_bytes(), first.items.read_bytes()) == content
    assert len(server.asked) == 2


def test_a_column_of_which_nothing_is_known_is_left_out():
    frame, _ = build_items([Item("1", "Heat", "", [])], ["1"], all_items=False)
    assert frame.columns == ["item_id", "title"]


def test_a_log_without_events_is_said(beauty, server, tmp_path):
    server.files["reviews_Beauty_5.json.gz"] = zipped_lines("")
    with pytest.raises(ValueError, match="the file of reviews holds none"):
        public.download(beauty, tmp_path, progress=False)


def test_another_folder_is_asked_for_where_data_would_be_lost(beauty, tmp_path):
    public.download(beauty, tmp_path / "a", progress=False)
    with pytest.raises(ValueError, match="holds amazon-2014-beauty; choose another folder for mov"):
        public.download("movielens-1m", tmp_path / "a", progress=False)
    (tmp_path / "interactions.parquet").touch()
    with pytest.raises(ValueError, match="holds interactions.parquet of another origin"):
        public.download(beauty, tmp_path, progress=False)


def test_unknown_names_are_answered_with_near_ones(tmp_path):
    with pytest.raises(ValueError, match="called 'amazon-beauty' here; did you mean amazon-"):
        public.download("amazon-beauty", tmp_path)
    with pytest.raises(ValueError, match="called 'xyz' here. All names: laser"):
        public.download("xyz", tmp_path)
    with pytest.raises(ValueError, match="movielens-1m has no file a.gz; checksums are for ml-1m"):
        public.download("movielens-1m", tmp_path, sha256={"a.gz": "0" * 64})


def test_every_known_name_says_where_from_and_whom_to_cite():
    assert len(KNOWN) == 24 + 29 + 28 + 1
    for dataset in KNOWN.values():
        assert dataset.log.url.startswith("https://")
        assert dataset.metadata.url.startswith("https://")
        assert dataset.citation
        assert dataset.licence
    assert KNOWN["amazon-2018-amazon-fashion"].log.file_name == "AMAZON_FASHION_5.json.gz"


# The command


def test_the_command_prints_counts_citation_licence_and_what_comes_next(beauty, tmp_path):
    folder = tmp_path / "beauty"
    checksum = f"meta_Beauty.json.gz={hashlib.sha256(METADATA).hexdigest()}"
    result = run_command("download", beauty, "--output", folder, "--sha256", checksum)
    assert result.exit_code == 0, result.output
    for text in ("interactions repeated", "Cite: R. He", "Licence: none stated", "Page: https:"):
        assert text in result.output
    inputs = f"--interactions {folder}/interactions.parquet --items {folder}/items.parquet"
    assert f"Next: laser-peft train {inputs} --llm MODEL --output RUN" in result.output


def test_the_command_lists_the_known_names():
    listed = run_command("download", "--list").output
    assert all(name in listed for name in KNOWN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["movielens-1m"], "say which data set and where to: laser-peft download NAME --output"),
        (["nothing", "--output", "x"], "no public data set is called 'nothing'"),
        (["movielens-1m", "--output", "x", "--sha256", "abc"], "digits, got 'abc'"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, message):
    result = run_command("download", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
