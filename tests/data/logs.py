"""Small logs, written in every format, and histories made of numbers."""

import gzip
import json

import numpy as np
import polars as pl

from laser_peft.data import Histories

HEAD = "user_id,item_id,timestamp\n"
CSV = HEAD + "b,0071,3\na,x,5\nb,y,1\na,y,5\na,z,4\nb,x,3\n"
# Equal times keep file order.
EXPECTED = {"b": ["y", "0071", "x"], "a": ["z", "x", "y"]}


def frame_of(content):
    return pl.read_csv(content.encode(), infer_schema=False)


def write(folder, name, content=CSV):
    """Writes a CSV text in the format that the name asks for."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if ".csv" in name and name.endswith(".zst"):
        frame_of(content).lazy().sink_csv(path, compression="zstd", check_extension=False)
    elif name.endswith(".zst"):
        frame_of(content).lazy().sink_ndjson(path, compression="zstd", check_extension=False)
    elif name.endswith(".parquet"):
        frame_of(content).with_columns(pl.col("timestamp").cast(pl.Int64)).write_parquet(path)
    else:
        text = content if ".csv" in name else as_json_lines(content)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def as_json_lines(content):
    head, *rows = [line.split(",") for line in content.split()]
    return "\n".join(
        json.dumps(dict(zip(head, [user, item, int(time)], strict=True)))
        for user, item, time in rows
    )


def by_user(log):
    groups = log.frame().group_by("user_id", maintain_order=True).agg("item_id")
    return dict(groups.iter_rows())


def make_histories(*lengths, times=None):
    """Numbers the items 1, 2, 3, ... over all users."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    times = None if times is None else np.array(times, dtype=np.float64)
    users = [str(user) for user in range(len(lengths))]
    return Histories(np.arange(1, offsets[-1] + 1), offsets, users, times)
