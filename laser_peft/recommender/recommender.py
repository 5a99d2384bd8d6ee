"""A language model with an adapter, its tokenizer and its catalogue: ids in, titled items out.

Axes: B users in a batch, N items in the catalogue, R recommendation width.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from laser_peft import numbering
from laser_peft.data import Catalogue
from laser_peft.full_disk import says_when_the_disk_is_full
from laser_peft.item_texts import Whitening

from . import saving
from .best import Shelf, recall_of
from .card import RunFacts, what_is_tested
from .config import RecommenderConfig
from .growing import Items, own_vectors_of, read_items, split_returning, text_vectors_of
from .newcomers import best_or_most_had
from .requests import (
    allowed_items,
    batches_of,
    check_at_least_one,
    dense_histories,
    dense_history,
    dense_pairs,
    listed,
    refuse_text,
    windows_of,
)
from .session import Session
from .stock import Stock
from .users import score_candidates, similar, user_vectors

BATCH_SIZE = 32  # users at a time
Histories = Sequence[list[str] | tuple[str, ...]]


class Recommendation(NamedTuple):
    """One recommended item."""

    item_id: str
    title: str
    score: float


class LaserRecommender:
    """A language model with a Bi-Tuning adapter, its tokenizer and its catalogue.

    Args:
        model: a causal LM with a Bi-Tuning adapter that has a collaborative encoder.
        tokenizer: the language model's.
        catalogue: the items, in the order the adapter was trained with.
        config: prompt and history limits.
        whitening: by which the text vectors of an adapter with ``item_vectors`` ``"text"`` or
            ``"fused"`` were mapped; :meth:`add_items` needs it, but for ``config.reads_items``.
        facts: of the run, for the model card; mappings as JSON holds them too.
        item_vectors: ``(N, R)`` the adapter's, computed before, in float32 or bfloat16; they may be
            mapped from a file. None: they are computed here.

    Raises:
        ValueError: if the catalogue does not have as many items as the adapter scores, the
            encoder was trained on another one, the prompt cannot hold a single item, the
            whitening maps to another width than the adapter's text vectors have, or
            ``config.reads_items`` is set for an adapter that is not of ``item_vectors="text"``.
    """

    def __init__(
        self,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        catalogue: Catalogue,
        config: RecommenderConfig | None = None,
        *,
        whitening: Whitening | None = None,
        facts: RunFacts | Mapping[str, Any] | None = None,
        item_vectors: torch.Tensor | None = None,
    ) -> None:
        self._stock = Stock(model, item_vectors)
        num_scored = len(self.item_vectors)
        if num_scored != len(catalogue):
            raise ValueError(
                f"the adapter scores {num_scored} items and the catalogue has {len(catalogue)}; "
                "use the catalogue the adapter was trained with"
            )
        encoder = model.collaborative_encoder
        if encoder is not None:
            # Items that were added since are behind those it was trained with.
            known = encoder.get_input_embeddings().num_embeddings - 1
            numbering.check(encoder.config, catalogue.frame["item_id"][:known])
        self.config = config or RecommenderConfig()
        _check_text_vectors(model, whitening, reads_items=self.config.reads_items)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.catalogue = catalogue
        self.prompts = self.config.prompt_builder(tokenizer, catalogue, lazy=True)
        self.whitening = whitening
        self.facts = RunFacts.of(facts)
        self._removed: set[str] = set()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        llm: PreTrainedModel | str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: Any = None,
    ) -> "LaserRecommender":
        """Loads a folder that :meth:`save_pretrained` wrote, or such a folder on the Hub.

        Args:
            path: folder or Hub id.
            llm: the base language model, if it is loaded already; or a folder or Hub id to load it
                from. None: from where the adapter says it was trained on.
            revision: branch, tag or commit of a Hub id.
            token: for private repositories of the Hub.
            dtype: precision of the language model. None: the one it was trained with.
            device_map: where the language model is loaded, as transformers takes it.

        Raises:
            FileNotFoundError: if there is no such folder, a file of it is missing, or the
                language model is not where the adapter says.
            ValueError: if ``dtype`` or ``device_map`` is given for a model that is loaded already,
                or a file is damaged.
        """
        loaded = saving.load(path, llm, revision, token, dtype=dtype, device_map=device_map)
        recommender = cls(
            loaded.model,
            loaded.tokenizer,
            loaded.catalogue,
            loaded.config,
            whitening=loaded.whitening,
            facts=loaded.facts,
            item_vectors=loaded.vectors,
        )
        recommender.remove_items(loaded.removed)
        if recommender.facts is not None:  # those of older versions do not say what was tested
            there = what_is_tested(loaded.model, loaded.catalogue, recommender.removed)
            recommender.facts = recommender.facts.of_what_is(there)
        return recommender

    @says_when_the_disk_is_full
    def save_pretrained(self, folder: str | Path, *, item_vectors: str | None = None) -> None:
        """Writes adapter, encoder, text vectors, tokenizer, catalogue and limits; not the LM.

        What was in the folder stays until all is written, and a model card that somebody has
        written by hand stays for good.

        Args:
            folder: where to.
            item_vectors: ``"float32"`` or ``"bfloat16"``: also the finished item vectors, which
                are then mapped into memory when the folder is loaded, one copy for all processes
                of a machine. None: they are computed in each process that loads the folder.

        Raises:
            ValueError: if ``item_vectors`` is something else.
        """
        saving.save(self, Path(folder), item_vectors=item_vectors)

    def save_card(self, folder: str | Path) -> None:
        """Writes the facts of the run and the model card into a folder that was saved before."""
        saving.save_card(self, Path(folder))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Uploads what :meth:`save_pretrained` writes, in one commit.

        Args:
            repo_id: Hub id of the repository; made if there is none.
            private: whether a new repository is private. None: as its owner has set.
            token: with the right to write. None: that of ``hf auth login``.
            commit_message: None: "Upload recommender".

        Returns:
            The address of the commit.
        """
        return saving.push(self, repo_id, private, token, commit_message or "Upload recommender")

    @overload
    def recommend(
        self,
        histories: Sequence[str],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Recommendation]: ...

    @overload
    def recommend(
        self,
        histories: Histories,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[list[Recommendation]]: ...

    def recommend(
        self,
        histories: Sequence[Any],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Any]:
        """Recommends the k items most likely to come next.

        Args:
            histories: catalogue ids of what a user has had, oldest first, none for a new user; or
                a list of such lists, one a user.
            k: how many, at least 1.
            exclude_seen: leave out what is in a user's history.
            allow: ids that alone may be recommended. None: all.
            deny: ids that may not be; stronger than ``allow``.
            batch_size: users at a time.

        Returns:
            The best k, best first, of equal scores the item of the lower dense id; fewer if no
            more may be recommended. Of several histories a list of such lists, in their order.

        Raises:
            ValueError: if an item is unknown, ``k`` or ``batch_size`` is below one, or a score is
                not a finite number.
        """
        histories, many = listed(histories)
        if not many:
            dense_history(self.catalogue, histories)  # its error speaks of no number
        found = self.recommend_many(
            histories if many else [histories],
            k,
            exclude_seen=exclude_seen,
            allow=allow,
            deny=deny,
            batch_size=batch_size,
        )
        return list(found) if many else next(found)

    def recommend_many(
        self,
        histories: Iterable[Iterable[str]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[list[Recommendation]]:
        """Recommends for many users, as they come: no more than 32 batches are held.

        The first batch is answered when it is there; then histories are held back, each time twice
        as many, to read those of like length together.

        Args:
            histories: one history a user; may be endless.
            k: as the others, what :meth:`recommend` takes.
            exclude_seen: see there.
            allow: see there.
            deny: see there.
            batch_size: users at a time.

        Returns:
            An iterator over a list a user, in the order of the histories.

        Raises:
            ValueError: at once for ``k``, ``batch_size``, ``allow`` and ``deny``; in passing for a
                history, with its number from 0.
        """
        check_at_least_one(batch_size=batch_size)
        shelf = self.shelf(k, allow=allow, deny=deny)
        windows = dense_histories(self.catalogue, windows_of(refuse_text(histories), batch_size))
        return (
            found
            for window in windows
            for batch, users in self._read_in_batches(window, batch_size)
            for found in self.best(users, shelf, k, batch if exclude_seen else None)
        )

    def session(self, history: Iterable[str] = ()) -> Session:
        """Follows one user, whose new events are read without reading the old ones again.

        Args:
            history: catalogue ids of what the user has had, oldest first, none for a new user.

        Raises:
            ValueError: if an item is unknown.
        """
        return Session(self, history)

    def recommend_sessions(
        self,
        sessions: Iterable[Session],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[list[Recommendation]]:
        """Recommends for several sessions, whose new events are read together.

        Args:
            sessions: made by :meth:`session`; one that is there twice is read once.
            k: as the others, what :meth:`recommend` takes.
            exclude_seen: see there.
            allow: see there.
            deny: see there.
            batch_size: users at a time.

        Returns:
            A list a session, in their order.

        Raises:
            TypeError: if something else stands among the sessions.
            ValueError: for the session of another recommender, and as :meth:`recommend` does.
        """
        check_at_least_one(batch_size=batch_size)
        shelf = self.shelf(k, allow=allow, deny=deny)
        asked = Session.listed(self, sessions)
        once = list(dict.fromkeys(asked))
        if not once:
            return []
        users, histories = Session.read(self, once, batch_size=batch_size)
        batches = zip(batches_of(histories, batch_size), users.split(batch_size), strict=True)
        found = (
            best
            for had, read in batches
            for best in self.best(read, shelf, k, had if exclude_seen else None)
        )
        of_session = dict(zip(once, found, strict=True))
        return [of_session[session] for session in asked]

    def score(
        self,
        histories: Sequence[Any],
        candidates: Sequence[Any],
        *,
        batch_size: int = BATCH_SIZE,
    ) -> list[Any]:
        """Scores given items as what may come next, seen and removed ones too.

        Args:
            histories: one history, or a list of histories, as :meth:`recommend` takes them.
            candidates: item ids; of several histories a list of ids for each.
            batch_size: users at a time.

        Returns:
            A float for each candidate, in their order; of several histories a list of such lists.

        Raises:
            ValueError: if an item is unknown, or there are not as many lists of candidates as
                histories.
        """
        check_at_least_one(batch_size=batch_size)
        histories, many = listed(histories)
        pairs = dense_pairs(self.catalogue, histories, candidates, many=many)
        vectors = self.item_vectors
        scored = [
            scores
            for batch in batches_of(pairs, batch_size)
            for scores in score_candidates(
                self.read([history for history, _ in batch]), vectors, [ids for _, ids in batch]
            )
        ]
        return scored if many else scored[0]

    def similar_items(self, item_id: str, k: int = 10) -> list[Recommendation]:
        """Finds the items whose vectors have the largest cosine with an item's.

        Args:
            item_id: the item; it is left out, as removed items are.
            k: how many, at least 1.

        Returns:
            The k nearest, nearest first, the score being the cosine.

        Raises:
            ValueError: if the item is unknown or ``k`` is below one.
        """
        check_at_least_one(k=k)
        (dense,) = dense_history(self.catalogue, [item_id])
        allowed = allowed_items(self.catalogue, self._removed, None, None)
        return self._named([similar(self.item_vectors, int(dense), k, allowed)])[0]

    def add_items(self, items: Items) -> None:
        """Adds items to the catalogue by their texts, without training.

        Vectors, scores and numbers of the items there are stay as they are. Nothing is changed if
        there is an error. A removed item comes back as it was. Where there are several processes
        all of them call it, with the same items.

        Args:
            items: a catalogue, or mappings with an ``item_id`` and attributes, of which some may
                be new.

        Raises:
            ValueError: if an item is in the catalogue already, two share an id, the adapter's
                item vectors come from the encoder alone, or there is no whitening.
        """
        given = read_items(items)
        if given is None:
            return
        back, new = split_returning(self.catalogue, self._removed, given)
        if new is not None:
            self._append(new)
        self._removed.difference_update(back)

    @property
    def item_vectors(self) -> torch.Tensor:
        """The ``(N, R)`` vectors that are scored, in the catalogue's order; read only."""
        return self._stock.vectors

    def use_index(self, factory: str | None = "HNSW32", parameters: str | None = None) -> None:
        """Looks from now on only at candidates that an approximate index of FAISS names.

        They are scored exactly, and every item is looked at where too few of them may be found.
        Items that are added go into the index; it is not saved.

        Args:
            factory: as FAISS' ``index_factory`` takes it, such as ``"IVF4096,Flat"``, which is made
                sooner, and finds less where vectors form no groups. None: no index any more.
            parameters: as FAISS' ``ParameterSpace`` takes them, such as ``"nprobe=64"``. None:
                ``efSearch=256`` of a graph (HNSW), a sixteenth of the lists of an IVF.

        Raises:
            ImportError: if FAISS is not installed.
            ValueError: if FAISS does not know the factory or a parameter.
        """
        self._stock.use_index(factory, parameters)

    @property
    def index(self) -> tuple[str, str | None] | None:
        """Factory and parameters that :meth:`use_index` was called with; None: no index."""
        return self._stock.index

    def index_recall(self, histories: Histories, k: int = 10) -> float:
        """Returns which part of the k best of histories the index finds, 0 to 1; 1 without one.

        Raises:
            ValueError: if there is no history, or one names an unknown item.
        """
        if not len(histories):
            raise ValueError("recall is a mean over histories, got none; give at least one")
        windows = dense_histories(self.catalogue, batches_of(histories, BATCH_SIZE))
        users = [self.read(window) for window in windows]
        return recall_of(self.shelf(k), torch.cat(users), k)

    def remove_items(self, item_ids: Iterable[str]) -> None:
        """Sees to it that items are never recommended again; histories may still name them.

        Raises:
            ValueError: if an item is unknown.
        """
        dense = dense_history(self.catalogue, item_ids)
        self._removed.update(self.catalogue.names(dense)[0])

    @property
    def removed(self) -> list[str]:
        """Ids of the items that are never recommended, in the catalogue's order."""
        return self.catalogue.names(sorted(self.catalogue.dense_ids(self._removed)))[0]

    def _append(self, new: Catalogue) -> None:
        catalogue = self.catalogue.extended(new)
        new = Catalogue(catalogue.frame.tail(len(new)))  # with the attributes of them all
        known, prompts = self.item_vectors, self.prompts.extended(new)
        if self.config.reads_items:
            texts = own_vectors_of(self.model, prompts, len(new))
        else:
            texts = text_vectors_of(
                self.model, self.tokenizer, new, self.config.prompt, self.whitening
            )
        self.model.add_item_text_vectors(texts)
        try:
            self._stock.grow(known)
        except BaseException:
            self.model.take_back_item_text_vectors(len(new))
            raise
        self.catalogue, self.prompts = catalogue, prompts

    def read(
        self, histories: Sequence[np.ndarray], *, batch_size: int = BATCH_SIZE
    ) -> torch.Tensor:
        """Gives ``(B, R)`` user vectors of histories of dense ids; see :func:`user_vectors`."""
        max_items = self.config.max_items
        return user_vectors(
            self.model, self.prompts, histories, max_items=max_items, batch_size=batch_size
        )

    def _read_in_batches(
        self, window: list[np.ndarray], batch_size: int
    ) -> Iterator[tuple[list[np.ndarray], torch.Tensor]]:
        batch_size = min(batch_size, len(window))
        users = self.read(window, batch_size=batch_size)
        return zip(batches_of(window, batch_size), users.split(batch_size), strict=True)

    def shelf(
        self, k: int, *, allow: Iterable[str] | None = None, deny: Iterable[str] | None = None
    ) -> Shelf:
        """Gives what may be recommended; arguments and errors are those of :meth:`recommend`."""
        check_at_least_one(k=k)
        return self._stock.shelf(allowed_items(self.catalogue, self._removed, allow, deny))

    def best(
        self, users: torch.Tensor, shelf: Shelf, k: int, left_out: Sequence[np.ndarray] | None
    ) -> list[list[Recommendation]]:
        """Finds the k best of a shelf for ``(B, R)`` user vectors; see ``best_or_most_had``."""
        events = self.model.base_model.item_events
        return self._named(best_or_most_had(users, shelf, k, left_out=left_out, events=events))

    def _named(self, found: Sequence[Sequence[tuple[int, float]]]) -> list[list[Recommendation]]:
        """Names all at once: a look into the catalogue costs more than an item does."""
        scores = [score for best in found for _, score in best]
        ids, titles = self.catalogue.names([dense for best in found for dense, _ in best])
        named = map(Recommendation, ids, titles, scores)
        return [list(islice(named, len(best))) for best in found]


def _check_text_vectors(
    model: PeftModel, whitening: Whitening | None, *, reads_items: bool
) -> None:
    config = model.peft_config[model.active_adapter]
    if reads_items and config.item_vectors != "text":
        raise ValueError(
            "reads_items is for an adapter that reads its items itself, with item_vectors='text', "
            f"and this one has item_vectors={config.item_vectors!r}; leave it out"
        )
    if whitening is None or config.item_vectors == "collaborative":
        return
    width = whitening.directions.size(1)
    if width != config.item_text_dim:
        raise ValueError(
            f"the whitening maps to {width} directions and the adapter's text vectors are "
            f"{config.item_text_dim} wide; give the one they were made with"
        )
