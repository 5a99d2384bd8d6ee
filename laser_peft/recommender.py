"""Recommendations from a saved adapter: catalogue ids in, catalogue ids, titles and scores out."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import PeftConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from laser_peft import numbering
from laser_peft import tuner as _tuner  # noqa: F401  (registers BITUNING)
from laser_peft.data import Catalogue, PaddingCollator, PromptBuilder, PromptTemplate

CATALOGUE_FILE = "catalogue.parquet"
CONFIG_FILE = "recommender_config.json"
SAVED_FILES = ["*.json", "*.safetensors", "*.parquet", "*.md"]


class Recommendation(NamedTuple):
    """One recommended item."""

    item_id: str
    title: str
    score: float


@dataclass(frozen=True)
class RecommenderConfig:
    """What a recommender needs beside the adapter and the catalogue.

    Args:
        max_tokens: longest prompt in tokens.
        max_items: newest items of a history that prompt and collaborative encoder read; at least 1.
        prompt: what a prompt says around and about the items.
        dtype: precision in which the language model is loaded, a torch dtype's name.

    Raises:
        ValueError: if ``max_items`` is below one.
    """

    max_tokens: int = 512
    max_items: int = 50
    prompt: PromptTemplate = PromptTemplate()
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.max_items < 1:
            raise ValueError(
                f"RecommenderConfig: max_items must be at least 1, got {self.max_items}"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RecommenderConfig":
        """Makes a configuration of what JSON holds."""
        return cls(**values | {"prompt": PromptTemplate.from_dict(values.get("prompt", {}))})

    def prompt_builder(
        self, tokenizer: PreTrainedTokenizerBase, catalogue: Catalogue
    ) -> PromptBuilder:
        """Makes the prompts these limits describe; raises what :class:`PromptBuilder` raises."""
        return PromptBuilder(
            tokenizer,
            catalogue,
            max_tokens=self.max_tokens,
            max_items=self.max_items,
            template=self.prompt,
        )


class LaserRecommender:
    """A language model with a Bi-Tuning adapter, its tokenizer and its catalogue.

    Args:
        model: a causal LM with a Bi-Tuning adapter that has a collaborative encoder.
        tokenizer: the language model's.
        catalogue: the items, in the order the adapter was trained with.
        config: prompt and history limits.

    Raises:
        ValueError: if the catalogue does not have as many items as the adapter scores, the
            encoder was trained on another one, or the prompt cannot hold a single item.
    """

    def __init__(
        self,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        catalogue: Catalogue,
        config: RecommenderConfig | None = None,
    ) -> None:
        num_scored = model.item_vectors().size(0)
        if num_scored != len(catalogue):
            raise ValueError(
                f"the adapter scores {num_scored} items and the catalogue has {len(catalogue)}; "
                "use the catalogue the adapter was trained with"
            )
        encoder = model.collaborative_encoder
        if encoder is not None:
            numbering.check(encoder.config, catalogue.item_ids)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.catalogue = catalogue
        self.config = config or RecommenderConfig()
        self.prompts = self.config.prompt_builder(tokenizer, catalogue)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, llm: PreTrainedModel | None = None
    ) -> "LaserRecommender":
        """Loads a folder that :meth:`save_pretrained` wrote, or such a folder on the Hub.

        Args:
            path: folder or Hub id.
            llm: the base language model, if it is loaded already. None: it is loaded from where
                the adapter says it was trained on.

        Raises:
            FileNotFoundError: if there is no such folder, or a file of it is missing.
        """
        folder = _local_folder(path)
        for name in (CATALOGUE_FILE, CONFIG_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} has no {name}; a recommender's folder is written by "
                    "LaserRecommender.save_pretrained or laser-peft train"
                )
        config = RecommenderConfig.from_dict(json.loads((folder / CONFIG_FILE).read_text("utf-8")))
        base_name = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
        if llm is None:
            llm = AutoModelForCausalLM.from_pretrained(base_name, dtype=config.dtype)
        model = PeftModel.from_pretrained(llm, str(folder))
        has_tokenizer = (folder / "tokenizer_config.json").is_file()
        tokenizer = AutoTokenizer.from_pretrained(folder if has_tokenizer else base_name)
        return cls(model, tokenizer, Catalogue.load(folder / CATALOGUE_FILE), config)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes adapter, encoder, item vectors, tokenizer, catalogue and limits; not the LM."""
        folder = Path(folder)
        self.model.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(folder)
        self.catalogue.save(folder / CATALOGUE_FILE)
        text = json.dumps(asdict(self.config), indent=2)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")

    def recommend(
        self, history: Sequence[str], k: int = 10, *, exclude_seen: bool = True
    ) -> list[Recommendation]:
        """Recommends the k items most likely to come next.

        Args:
            history: catalogue ids of what the user has had, oldest first; at least one.
            k: how many, at least 1.
            exclude_seen: leave out what is in the history.

        Returns:
            The best k, best first; fewer only if the catalogue has no more.

        Raises:
            ValueError: if the history is empty or names an unknown item, or ``k`` is below one.
        """
        return next(self.recommend_many([history], k, exclude_seen=exclude_seen))

    @torch.inference_mode()
    def recommend_many(
        self,
        histories: Iterable[Sequence[str]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        batch_size: int = 32,
    ) -> Iterator[list[Recommendation]]:
        """Recommends for many users, as :meth:`recommend` does for one.

        Args:
            histories: one history a user.
            k: how many items a user, at least 1.
            exclude_seen: leave out what is in a user's history.
            batch_size: users at a time.

        Yields:
            A list a user, in the order of the histories.

        Raises:
            ValueError: if a history is empty or names an unknown item, ``k`` is below one, or a
                score is not a finite number.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        dense = [self._dense_history(history) for history in histories]
        for start in range(0, len(dense), batch_size):
            batch = dense[start : start + batch_size]
            scores = self._scores(batch)
            if not scores.isfinite().all():
                raise ValueError(
                    "the adapter's scores are not all finite numbers; did its training diverge, "
                    "or are its files incomplete?"
                )
            if exclude_seen:
                for row, history in zip(scores, batch, strict=True):
                    row[history - 1] = -torch.inf
            best = scores.topk(min(k, len(self.catalogue)))
            for values, rows in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                yield [
                    Recommendation(self.catalogue.item_ids[row], self.catalogue.titles[row], value)
                    for value, row in zip(values, rows, strict=True)
                    if value > -np.inf
                ]

    def _dense_history(self, history: Sequence[str]) -> np.ndarray:
        if isinstance(history, str):
            raise ValueError(
                f"a history is a list of item ids, got the text {history!r}; for one item pass "
                f"[{history!r}]"
            )
        if not history:
            raise ValueError(
                "the history is empty: pass at least one item id, oldest first; recommendations "
                "for users without any event are not supported yet"
            )
        return np.asarray(self.catalogue.dense_ids(history), dtype=np.int64)

    def _scores(self, histories: Sequence[np.ndarray]) -> torch.Tensor:
        """Scores the catalogue: ``(B, N)`` float on the CPU."""
        batch = PaddingCollator()(
            [
                {
                    "input_ids": self.prompts(history),
                    "history": history[-self.config.max_items :],
                }
                for history in histories
            ]
        )
        batch = {name: values.to(self.model.device) for name, values in batch.items()}
        return self.model(**batch, return_logits=True).logits.float().cpu()


def _local_folder(path: str | Path) -> Path:
    """Returns the folder itself, or a downloaded copy of it where ``path`` is a Hub id."""
    if Path(path).is_dir():
        return Path(path)
    try:
        return Path(snapshot_download(str(path), allow_patterns=SAVED_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"there is no folder {str(path)!r} here, and the Hub does not give one: {error}"
        ) from error
