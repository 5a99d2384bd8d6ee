"""Rows of a CSV file that wrong quotes would swallow, and quotes that are right."""

import polars as pl
import pytest

from laser_peft.data import Catalogue, read_interactions


def with_notes(*notes):
    """A log of many rows, two of which hold something in a column that nobody reads."""

    def act(folder):
        lines = [f"a,x,{time},plain" for time in range(1000)]
        for place, note in zip((10, 800), notes, strict=False):
            lines[place] = f"a,x,{place},{note}"
        text = "user_id,item_id,timestamp,note\n" + "\n".join(lines) + "\n"
        (folder / "log.csv").write_text(text)
        return read_interactions(folder / "log.csv")

    return act


def with_titles(title):
    """A catalogue of many items, two of which have such a title."""

    def read(folder):
        rows = [f"{row},{title if row in (10, 90) else 'plain'},b\n" for row in range(100)]
        (folder / "items.csv").write_text("item_id,title,brand\n" + "".join(rows))
        return Catalogue.read(folder / "items.csv")

    return read


QUOTES = {
    "a quote in an unread value": (
        with_notes('5" nail', '5" nail'),
        "its quotes do not pair in line 12: 'a,x,10,5\" nail'; .* doubled, or rows are lost",
    ),
    "one such quote": (with_notes('5" nail'), "log.csv as csv: its quotes do not pair in line 12"),
    "a quoted word": (with_notes('"best" lamp', '"best" lamp'), "do not pair in line 12"),
    "a value that does not end": (with_notes('"best lamp'), "begins in line 12 does not end"),
    "two values that do not end": (with_notes('"best', '"best'), "do not pair in line 802"),
    "quotes behind backslashes": (
        with_notes('"5\\" nail"', '"5\\" nail"'),
        r"do not pair in line 12: .*\.option\('escape', '\"'\)",
    ),
    "JSON behind backslashes": (with_notes(r'"{\"a\":1,\"b\":\"x\"}"'), "do not pair in line 12"),
    "an inch behind a backslash": (with_notes(r'"5\""', r'"5\""'), "do not pair in line 802"),
    "titles with a quote": (with_titles('5" nail'), "items.csv .* do not pair in line 12"),
    "titles with backslashes": (with_titles('"5\\" nail"'), "do not pair in line 12"),
    "titles that end so": (with_titles('"nail 5\\""'), "do not pair in line 92"),
}


@pytest.mark.parametrize("kind", QUOTES)
def test_quotes_that_swallow_rows_are_refused(tmp_path, kind):
    act, message = QUOTES[kind]
    with pytest.raises(ValueError, match=message):
        act(tmp_path)


def test_proper_quotes_of_any_kind_are_read(tmp_path):
    titles = [
        '5" nail',
        '"Great" soap',
        "a,b",
        "two\nlines",
        'x"\n"',
        '","',
        "C:\\",
        "\x01",
        "plain",
    ]
    frame = pl.DataFrame({"item_id": [str(row) for row in range(len(titles))], "title": titles})
    log = frame.with_columns(user_id=pl.lit("a"), timestamp=1).select(pl.exclude("title"), "title")
    for style in ("necessary", "always", "non_numeric"):
        for end in ("\n", "\r\n"):
            for mark in (False, True):
                form = {"quote_style": style, "line_terminator": end, "include_bom": mark}
                frame.write_csv(tmp_path / "items.csv", **form)
                assert Catalogue.read(tmp_path / "items.csv").frame.equals(frame)
                log.write_csv(tmp_path / "log.csv", **form)
                assert len(read_interactions(tmp_path / "log.csv")) == len(titles)


def test_a_value_may_run_over_batches_of_lines(tmp_path, monkeypatch):
    def one_by_one(lines, **options):
        frame = lines.collect()
        for row in range(frame.height):
            yield from (frame[row : row + 1], frame[:0])

    monkeypatch.setattr(pl.LazyFrame, "collect_batches", one_by_one)
    path = tmp_path / "items.csv"
    path.write_text('item_id,title\na,"two\n""quoted"" words\nin it"\nb,"plain"\n')
    assert Catalogue.read(path).item_ids == ["a", "b"]
    path.write_text('item_id,title\na,"two\n""quoted"" words\nb,plain\n')
    with pytest.raises(ValueError, match="begins in line 2 does not end"):
        Catalogue.read(path)
