"""Recommendations for a table: the same however the work is cut."""

from dataclasses import replace

import polars as pl
import pytest
import torch
from conftest import NUM_ITEMS
from recommenders import make_recommender

from laser_peft import LaserRecommender
from laser_peft.batch import BatchSettings, HistoryTable, Shard, recommend_table
from laser_peft.batch.fingerprint import fingerprint
from laser_peft.batch.output import PartFolder

USERS = 29
HISTORIES = [[f"i{(user + n) % NUM_ITEMS}" for n in range(user % 7)] for user in range(USERS)]
SETTINGS = BatchSettings(k=4, batch_size=3, rows_per_part=5)  # six parts, the last of four


@pytest.fixture(scope="module")
def recommender(lm_folder, encoder_folder, shop, tokenizer):
    return make_recommender(lm_folder, encoder_folder, shop, tokenizer)


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "histories.parquet", HISTORIES)


@pytest.fixture(scope="module")
def whole(recommender, tmp_path_factory):
    """What is written in one go."""
    folder = tmp_path_factory.mktemp("whole")
    recommend_table(
        recommender, write(folder / "histories.parquet", HISTORIES), folder / "out", SETTINGS
    )
    return parts_of(folder / "out")


def write(path, histories):
    users = [f"u{user}" for user in range(len(histories))]
    pl.DataFrame({"user_id": users, "history": histories}).write_parquet(path)
    return HistoryTable.open(path)


def parts_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_each_user_gets_what_it_gets_alone_in_the_order_of_the_table(recommender, table, tmp_path):
    summary = recommend_table(recommender, table, tmp_path / "out", SETTINGS)
    assert (summary.histories, summary.found, summary.is_done) == (USERS, 0, True)
    out = pl.read_parquet(tmp_path / "out" / "*.parquet")
    assert out.schema == {
        "user_id": pl.String,
        "item_ids": pl.List(pl.String),
        "scores": pl.List(pl.Float32),
    }
    assert out["user_id"].to_list() == [f"u{user}" for user in range(USERS)]
    for history, items, scores in zip(HISTORIES, out["item_ids"], out["scores"], strict=True):
        alone = recommender.recommend(history, 4)
        assert items.to_list() == [item.item_id for item in alone]
        assert scores.to_list() == pytest.approx([item.score for item in alone], abs=1e-4)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shards_together_write_the_bits_of_one(recommender, table, whole, tmp_path, count):
    done = [
        recommend_table(
            recommender, table, tmp_path / "out", SETTINGS, shard=Shard(number, count)
        ).is_done
        for number in range(count, 0, -1)
    ]
    assert (done[0], done[-1]) == (False, True)
    assert parts_of(tmp_path / "out") == whole


def test_what_was_broken_off_goes_on_behind_what_is_there(recommender, table, whole, tmp_path):
    class Cut(Exception):
        pass

    def cut(done, _):
        if done == 10:
            raise Cut

    out = tmp_path / "out"
    with pytest.raises(Cut):
        recommend_table(recommender, table, out, SETTINGS, progress=cut)
    assert len(parts_of(out)) == 2
    assert not (out / "_SUCCESS").exists()
    (out / ".part-000002.parquet.1").write_bytes(b"half")
    told = []
    summary = recommend_table(
        recommender, table, out, SETTINGS, progress=lambda *it: told.append(it)
    )
    assert told == [(5, 19), (10, 19), (15, 19), (19, 19)]
    assert (summary.histories, summary.found, summary.is_done) == (19, 10, True)
    assert parts_of(out) == whole
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith("part")) == [
        *("_SUCCESS", "_job")
    ]
    again = recommend_table(recommender, table, out, SETTINGS)
    assert (again.histories, again.found) == (0, USERS)


def test_a_part_that_cannot_be_written_is_not_there(recommender, table, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            recommend_table(recommender, table, tmp_path / "out", SETTINGS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_job"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"settings": BatchSettings(k=5, batch_size=3, rows_per_part=5)},
            r"other settings: k \(\d+, now 5\) ch",
        ),
        ({"deny": ["i1"]}, "other data: deny_sha256 changed"),
        ({"allow": ["i1"]}, "other data: allow_sha256 changed"),
    ],
)
def test_another_job_is_refused(recommender, table, tmp_path, changed, message):
    recommend_table(recommender, table, tmp_path / "out", SETTINGS, shard=Shard(1, 6))
    with pytest.raises(ValueError, match=message):
        recommend_table(recommender, table, tmp_path / "out", **{"settings": SETTINGS} | changed)


def test_other_histories_and_another_recommender_are_refused(
    recommender, table, tmp_path, lm_folder, encoder_folder, shop, tokenizer
):
    out = tmp_path / "out"
    recommend_table(recommender, table, out, SETTINGS, shard=Shard(1, 6))
    other = write(tmp_path / "other.parquet", [*HISTORIES[:-1], ["i1"]])
    with pytest.raises(ValueError, match="histories_sha256 changed"):
        recommend_table(recommender, other, out, SETTINGS)
    changed = make_recommender(lm_folder, encoder_folder, shop, tokenizer)
    assert fingerprint(changed) == fingerprint(recommender)
    with torch.no_grad():
        next(changed.model.get_base_model().parameters()).mul_(1.01)
    with pytest.raises(ValueError, match="recommender_sha256 changed"):
        recommend_table(changed, table, out, SETTINGS)
    fewer = make_recommender(lm_folder, encoder_folder, shop, tokenizer)
    fewer.remove_items(["i2"])
    assert fingerprint(fewer) != fingerprint(recommender)


@pytest.mark.parametrize("content", [b"", b"PAR1 cut off", None])
def test_a_damaged_part_is_named(recommender, table, tmp_path, content):
    out = tmp_path / "out"
    recommend_table(recommender, table, out, SETTINGS)
    part = out / "part-000001.parquet"
    if content is None:
        part.write_bytes((out / "part-000005.parquet").read_bytes())  # four rows
    else:
        part.write_bytes(content)
    with pytest.raises(ValueError, match=r"part-000001.parquet (is damaged|has 4 rows).*delete it"):
        recommend_table(recommender, table, out, SETTINGS)
    part.unlink()
    assert recommend_table(recommender, table, out, SETTINGS).histories == 5


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no job of recommend-many"):
        PartFolder(tmp_path)


def test_unknown_items_stop_before_the_work_or_are_left_out(recommender, tmp_path):
    table = write(tmp_path / "a.parquet", [*HISTORIES, ["i1", "x", "i2"], ["x"]])
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"row 30 \(user 'u29'\) has the item 'x'"):
        recommend_table(recommender, table, out, SETTINGS)
    assert parts_of(out) == {}
    settings = BatchSettings(k=4, unknown_items="skip", rows_per_part=8)
    summary = recommend_table(recommender, table, tmp_path / "skipped", settings)
    assert summary.skipped == 2
    rows = pl.read_parquet(tmp_path / "skipped" / "*.parquet")["item_ids"]
    for row, history in ((29, ["i1", "i2"]), (30, [])):
        alone = recommender.recommend(history, 4)
        assert rows[row].to_list() == [item.item_id for item in alone]


def test_lists_hold_and_seen_items_may_come_back(recommender, table, tmp_path):
    settings = BatchSettings(k=4, exclude_seen=False)
    allow = ["i0", "i1", "i2"]
    recommend_table(recommender, table, tmp_path / "out", settings, allow=allow, deny=["i1"])
    for items in pl.read_parquet(tmp_path / "out" / "*.parquet")["item_ids"]:
        assert sorted(items) == ["i0", "i2"]
    with pytest.raises(ValueError, match="allow: 1 of 1 items are not"):
        recommend_table(recommender, table, tmp_path / "bad", settings, allow=["x"])
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"rows_per_part": -1}, "rows_per_part must be at least 1, got -1"),
        ({"unknown_items": "drop"}, "unknown_items is 'error' or 'skip', got 'drop'"),
    ],
)
def test_bad_settings_say_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        BatchSettings(**options)


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "2/0", "-1/3", "a/b", "1/2/3"])
def test_a_shard_that_does_not_exist_is_refused(text):
    with pytest.raises(ValueError, match=r"shard .*(does not exist|given as 2/8)"):
        Shard.parse(text)


def test_shards_share_the_parts_among_them():
    for count in range(1, 9):
        for parts in range(20):
            own = [Shard(number, count).of(parts) for number in range(1, count + 1)]
            assert [part for each in own for part in each] == list(range(parts))
            assert max(map(len, own)) - min(map(len, own)) <= 1
    assert Shard.parse("2/8") == Shard(2, 8)


def test_the_fingerprint_tells_stored_precisions_and_indexes_apart(
    lm_folder, encoder_folder, shop, tokenizer, tmp_path
):
    made = make_recommender(lm_folder, encoder_folder, shop, tokenizer)
    made.save_pretrained(tmp_path / "exact", item_vectors="float32")
    made.save_pretrained(tmp_path / "halved", item_vectors="bfloat16")
    exact, halved = (LaserRecommender.from_pretrained(tmp_path / n) for n in ("exact", "halved"))
    assert fingerprint(exact) == fingerprint(made) != fingerprint(halved)
    before = fingerprint(made)
    pytest.importorskip("faiss")
    made.use_index("HNSW8")
    assert fingerprint(made) != before


def test_a_job_that_cannot_be_done_leaves_nothing_behind(recommender, tmp_path):
    table = write(tmp_path / "histories.parquet", [["i1", "nobody knows it"], ["i2"]])
    with pytest.raises(ValueError, match="nobody knows it"):
        recommend_table(recommender, table, tmp_path / "out", SETTINGS)
    skipping = replace(SETTINGS, unknown_items="skip")
    path = tmp_path / "histories.parquet"
    assert recommend_table(recommender, path, tmp_path / "out", skipping).skipped == 1
