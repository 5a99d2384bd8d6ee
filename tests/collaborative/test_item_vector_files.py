import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from laser_peft.collaborative import align_item_vectors, read_item_vectors

IDS = ["b", "a", "d"]
VECTORS = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


@pytest.fixture(params=["npy", "float16.npy", "safetensors", "parquet", "array.parquet"])
def read(request, tmp_path):
    path = tmp_path / f"vectors.{request.param}"
    if request.param.endswith("npy"):
        np.save(path, VECTORS.numpy().astype("f2" if "float16" in request.param else "f8"))
    elif path.suffix == ".safetensors":
        save_file({"anything": VECTORS.bfloat16()}, path)
    else:
        kind = pl.Array(pl.Float64, 2) if "array" in request.param else pl.List(pl.Float32)
        rows = pl.Series("vector", VECTORS.tolist(), dtype=kind)
        pl.DataFrame({"item_id": IDS, "vector": rows}).write_parquet(path)
        return read_item_vectors(path)
    return read_item_vectors(path, IDS)


def test_every_format_gives_ids_and_a_float32_matrix(read):
    ids, vectors = read
    assert ids == IDS
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors, VECTORS)


def test_vectors_follow_the_catalogue_and_others_are_left_out():
    aligned = align_item_vectors(IDS, VECTORS, ["a", "b"])
    assert aligned.tolist() == [[3, 4], [1, 2]]


def test_items_without_a_vector_get_zeros_only_when_asked():
    aligned = align_item_vectors(IDS, VECTORS, ["d", "new", "b"], missing="zero")
    assert aligned.tolist() == [[5, 6], [0, 0], [1, 2]]
    with pytest.raises(ValueError, match=r"1 of the catalogue's 3 items have no vector.*\['new'\]"):
        align_item_vectors(IDS, VECTORS, ["d", "new", "b"])
    with pytest.raises(ValueError, match=r"2 of the catalogue's 2 items have no vector.*'b', 'a'"):
        align_item_vectors(IDS, VECTORS, ["1", "2"], missing="zero")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"item_ids": ["a", "b", "a"]}, "must be distinct, got 'a' more than once"),
        ({"item_ids": ["a"]}, r"there are 1 item ids, and vectors of the shape \(3, 2\)"),
        ({"missing": "skip"}, "missing must be 'error' or 'zero', got 'skip'"),
    ],
)
def test_what_cannot_be_aligned_is_refused(changed, message):
    arguments = {"item_ids": IDS, "vectors": VECTORS, "catalogue_ids": ["a"]} | changed
    with pytest.raises(ValueError, match=message):
        align_item_vectors(**arguments)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.npy"):
        read_item_vectors(tmp_path / "gone.npy", IDS)


@pytest.mark.parametrize(
    ("name", "write", "ids", "message"),
    [
        ("v.pt", lambda p: p.touch(), IDS, "must end in one of .safetensors, .npy, .parquet"),
        ("v.npy", lambda p: np.save(p, VECTORS), None, "holds no item ids; pass item_ids"),
        ("v.npy", lambda p: np.save(p, VECTORS[0]), IDS, r"must hold a matrix.*shape \(2,\)"),
        ("v.npy", lambda p: np.save(p, VECTORS), ["a"], "has 3 rows and item_ids 1 ids"),
        (
            "v.npy",
            lambda p: np.save(p, np.array([{}, {}, {}], dtype=object)),
            IDS,
            "allow_pickle=False",
        ),
        (
            "v.safetensors",
            lambda p: save_file({"a": VECTORS, "b": VECTORS.clone()}, p),
            IDS,
            r"must hold one tensor, got 2: \['a', 'b'\]",
        ),
        (
            "v.parquet",
            lambda p: pl.DataFrame({"item_id": IDS, "vector": [[1.0], [2.0], [3.0]]}).write_parquet(
                p
            ),
            IDS,
            "has its own item ids; leave item_ids out",
        ),
        (
            "v.parquet",
            lambda p: pl.DataFrame(
                {"item_id": ["a", None], "vector": [[1.0], [2.0]]}
            ).write_parquet(p),
            None,
            "v.parquet: 1 vectors have no item_id",
        ),
        (
            "v.parquet",
            lambda p: pl.DataFrame({"item_id": IDS}).write_parquet(p),
            None,
            "has no column 'vector'; it has 'item_id'",
        ),
        (
            "v.parquet",
            lambda p: pl.DataFrame({"item_id": IDS, "vector": [1, 2, 3]}).write_parquet(p),
            None,
            "must hold lists of numbers, got Int64",
        ),
        (
            "v.parquet",
            lambda p: pl.DataFrame(
                {"item_id": IDS, "vector": [[1.0], [2.0, 3.0], None]}
            ).write_parquet(p),
            None,
            "every item needs a vector, all equally wide, got the widths",
        ),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, name, write, ids, message):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        read_item_vectors(tmp_path / name, ids)
