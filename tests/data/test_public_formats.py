"""Readers of the published formats, on files made in them."""

import gzip
import json
import zipfile

import polars as pl
import pytest
from public_files import json_lines, movielens_zip, python_lines, review, zipped_lines

from laser_peft.data.public import amazon, movielens


def saved(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


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


def test_metadata_of_2014_that_nobody_wants_are_not_parsed(tmp_path):
    rows = zipped_lines("{'asin': 'B01', 'title': never closed", repr({"asin": "B02"}))
    path = saved(tmp_path, "meta_Beauty.json.gz", rows)
    assert [item.item_id for item in amazon.read_items_2014(path, {"B02"})] == ["B01", "B02"]


def test_half_a_character_is_replaced_and_two_halves_are_one(tmp_path):
    rows = zipped_lines(
        r"""{"asin": "B01", "title": "\ud83d red"}""",
        r"""{"asin": "B02", "title": "&#x1F600; \ud83d\ude00"}""",
    )
    path = saved(tmp_path, "meta.json.gz", rows)
    for read in (amazon.read_items_2014, amazon.read_items_2018):  # 2014: two halves as two
        titles = [item.title for item in read(path, None)]
        assert titles == ["\ufffd red", "\U0001f600 \U0001f600"]
        assert pl.Series(titles).to_list() == titles


def test_a_line_in_another_encoding_is_named(tmp_path):
    content = gzip.compress(json.dumps(review("A", "B", 1)).encode() + b'\n{"asin": "\xe9"}\n')
    path = saved(tmp_path, "reviews.json.gz", content)
    with pytest.raises(ValueError, match=r"reviews.json.gz, line 2: no utf-8 text .*xe9"):
        list(amazon.read_reviews(path))


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
