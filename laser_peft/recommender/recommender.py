"""A language model with an adapter, its tokenizer and its catalogue: ids in, titled items out.

Axes: B users in a batch, N items in the catalogue, R recommendation width.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from .best import Shelf, best_items
from .card import RunFacts
from .config import RecommenderConfig
from .growing import Items, own_vectors_with, read_items, split_returning, text_vectors_with
from .requests import (
    allowed_items,
    batches_of,
    check_at_least_one,
    dense_histories,
    dense_history,
    dense_pairs,
    listed,
)
from .session import Session
from .users import score_candidates, similar, user_vectors
from .vector_cache import VectorCache

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
    ) -> None:
        self._vectors = VectorCache(model)
        num_scored = len(self._vectors.vectors())
        if num_scored != len(catalogue):
            raise ValueError(
                f"the adapter scores {num_scored} items and the catalogue has {len(catalogue)}; "
                "use the catalogue the adapter was trained with"
            )
        encoder = model.collaborative_encoder
        if encoder is not None:
            # Items that were added since are behind those it was trained with.
            known = encoder.get_input_embeddings().num_embeddings - 1
            numbering.check(encoder.config, catalogue.item_ids[:known])
        self.config = config or RecommenderConfig()
        _check_text_vectors(model, whitening, reads_items=self.config.reads_items)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.catalogue = catalogue
        self.prompts = self.config.prompt_builder(tokenizer, catalogue)
        self.whitening = whitening
        self.facts = RunFacts.of(facts)
        self._removed: set[str] = set()
        self._whole_shelf: Shelf | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        llm: PreTrainedModel | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: Any = None,
    ) -> "LaserRecommender":
        """Loads a folder that :meth:`save_pretrained` wrote, or such a folder on the Hub.

        Args:
            path: folder or Hub id.
            llm: the base language model, if it is loaded already. None: it is loaded from where
                the adapter says it was trained on.
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
        )
        recommender.remove_items(loaded.removed)
        return recommender

    @says_when_the_disk_is_full
    def save_pretrained(self, folder: str | Path) -> None:
        """Writes adapter, encoder, item vectors, tokenizer, catalogue and limits; not the LM.

        What was in the folder stays until all is written, and a model card that somebody has
        written by hand stays for good.
        """
        saving.save(self, Path(folder))

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
        """Recommends for many users, as they come: no more than a batch is held.

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
        batches = batches_of(dense_histories(self.catalogue, histories), batch_size)
        return (
            found
            for batch in batches
            for found in self.best(self._users(batch), shelf, k, batch if exclude_seen else None)
        )

    def session(self, history: Iterable[str] = ()) -> Session:
        """Follows one user, whose new events are read without reading the old ones again.

        Args:
            history: catalogue ids of what the user has had, oldest first, none for a new user.

        Raises:
            ValueError: if an item is unknown.
        """
        return Session(self, history)

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
        vectors = self._vectors.vectors()
        scored = [
            scores
            for batch in batches_of(pairs, batch_size)
            for scores in score_candidates(
                self._users([history for history, _ in batch]), vectors, [ids for _, ids in batch]
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
        best = similar(self._vectors.vectors(), int(dense), k, allowed)
        return [self._recommendation(*item) for item in best]

    def add_items(self, items: Items) -> None:
        """Adds items to the catalogue by their texts, without training.

        Vectors, scores and numbers of the items there are stay as they are. Nothing is changed if
        there is an error. A removed item comes back as it was.

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

    def remove_items(self, item_ids: Iterable[str]) -> None:
        """Sees to it that items are never recommended again; histories may still name them.

        Raises:
            ValueError: if an item is unknown.
        """
        dense = dense_history(self.catalogue, item_ids)
        self._removed.update(self.catalogue.item_ids[number - 1] for number in dense)

    @property
    def removed(self) -> list[str]:
        """Ids of the items that are never recommended, in the catalogue's order."""
        return [item_id for item_id in self.catalogue.item_ids if item_id in self._removed]

    def _append(self, new: Catalogue) -> None:
        catalogue = self.catalogue.extended(new)
        new = Catalogue(catalogue.frame.tail(len(new)))  # with the attributes of them all
        prompts = self.prompts.extended(new)
        if self.config.reads_items:
            text, events = own_vectors_with(self.model, prompts, len(new))
        else:
            text, events = text_vectors_with(
                self.model, self.tokenizer, new, self.config.prompt, self.whitening
            )
        self.model.set_item_text_vectors(text, events)
        self.catalogue, self.prompts = catalogue, prompts

    def _users(self, histories: Sequence[Any]) -> torch.Tensor:
        return user_vectors(self.model, self.prompts, histories, max_items=self.config.max_items)

    def shelf(
        self, k: int, *, allow: Iterable[str] | None = None, deny: Iterable[str] | None = None
    ) -> Shelf:
        """Gives what may be recommended; arguments and errors are those of :meth:`recommend`."""
        check_at_least_one(k=k)
        allowed = allowed_items(self.catalogue, self._removed, allow, deny)
        vectors = self._vectors.vectors()
        if allowed is not None:
            return Shelf.of(vectors, allowed)
        if self._whole_shelf is None or self._whole_shelf.vectors is not vectors:
            self._whole_shelf = Shelf(vectors)  # keeps what it finds out about them
        return self._whole_shelf

    def best(
        self, users: torch.Tensor, shelf: Shelf, k: int, left_out: Sequence[np.ndarray] | None
    ) -> list[list[Recommendation]]:
        """Finds the k best of a shelf for ``(B, R)`` user vectors; see :func:`best_items`."""
        found = best_items(users, shelf, k, left_out=left_out)
        return [[self._recommendation(*item) for item in best] for best in found]

    def _recommendation(self, dense: int, score: float) -> Recommendation:
        row = dense - 1
        return Recommendation(self.catalogue.item_ids[row], self.catalogue.titles[row], score)


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
