"""Candidates for each user's best items, by an approximate index of FAISS.

Axes: B users, N items in the catalogue, R recommendation width, W candidates of a user.

What an index finds is scored exactly afterwards: it can miss an item, and says no wrong score.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

ROWS_AT_A_TIME = 2**16
POINTS_A_LIST = 64  # that the lists' centres are learnt from
# Unless parameters say otherwise: of all lists, and nodes of a graph that are kept in view.
LISTS_SEARCHED, EXPLORED = 1 / 16, 256


class FaissIndex:
    """Finds vectors of large dot products with a user's, without looking at all of them.

    Args:
        vectors: ``(N, R)`` float, at least one.
        factory: as FAISS' ``index_factory`` takes it.
        parameters: of the search, as FAISS' ``ParameterSpace`` takes them (``nprobe=64``). None:
            ``efSearch=256`` of a graph (HNSW), a sixteenth of the lists of an IVF.
        seed: of the items that an index is trained on.

    Raises:
        ImportError: if FAISS is not installed.
        ValueError: if FAISS does not know the factory or a parameter.
    """

    def __init__(
        self, vectors: Tensor, factory: str, parameters: str | None = None, seed: int = 0
    ) -> None:
        faiss = _faiss()
        self.factory, self.parameters = factory, parameters
        try:
            self._index = faiss.index_factory(vectors.size(1), factory, faiss.METRIC_INNER_PRODUCT)
            lists = faiss.try_extract_index_ivf(self._index)
            if parameters is None and lists is not None:
                parameters = f"nprobe={max(round(lists.nlist * LISTS_SEARCHED), 1)}"
            elif parameters is None and factory.startswith("HNSW"):
                parameters = f"efSearch={EXPLORED}"
            if parameters:
                faiss.ParameterSpace().set_index_parameters(self._index, parameters)
        except RuntimeError as error:
            raise ValueError(
                f"FAISS cannot make the index {factory!r} with the parameters {parameters!r} of "
                f"vectors {vectors.size(1)} wide: {str(error).splitlines()[-1]}"
            ) from error
        if lists is not None and lists.nlist > len(vectors):
            raise ValueError(
                f"the index {factory!r} wants {lists.nlist} lists, and there are {len(vectors)} "
                "items; ask for fewer lists than items, or none of an index at all"
            )
        faiss.omp_set_num_threads(torch.get_num_threads())
        if not self._index.is_trained:
            wanted = len(vectors) if lists is None else POINTS_A_LIST * lists.nlist
            self._index.train(_as_numpy(vectors[_drawn(len(vectors), wanted, seed)]))
        self.vectors = vectors[:0]
        self.add(vectors)

    def add(self, vectors: Tensor) -> None:
        """Adds what is behind the vectors there are in ``(N, R)`` vectors that begin with them."""
        for part in vectors[len(self.vectors) :].split(ROWS_AT_A_TIME):
            self._index.add(_as_numpy(part))
        self.vectors = vectors

    def places(self, users: Tensor, width: int) -> Tensor:
        """Returns ``(B, W)`` int64 places of candidates of ``(B, R)`` users, -1 where too few."""
        found = self._index.search(_as_numpy(users), width)[1]
        return torch.from_numpy(found).to(self.vectors.device)


def _drawn(count: int, wanted: int, seed: int) -> Tensor:
    random = np.random.default_rng(seed)
    rows = random.choice(count, min(wanted, count), replace=False)
    return torch.from_numpy(np.sort(rows))


def _as_numpy(vectors: Tensor) -> np.ndarray:
    return np.ascontiguousarray(vectors.detach().float().cpu().numpy())


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "an approximate index needs FAISS; install it with pip install 'laser-peft[faiss]'"
        ) from error
    return faiss
