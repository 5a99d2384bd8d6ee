"""Tokenises pieces of a text one by one, so that joined they are the tokens of the text."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# Stands before a piece while it is tokenised: tokenizers that put a space before a text (the
# SentencePiece kinds) put it there, where a piece that follows another has none.
ANCHOR = "\n"
# Texts a call: what a tokenizer keeps of a call beside the ids takes far more memory than they do.
AT_ONCE = 4096


class PieceEncoder:
    """Token ids of pieces that stand inside a text.

    Args:
        tokenizer: any; special tokens are never added.
        own_words: text of the prompt itself; other added tokens that occur in it count as special.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, own_words: str = "") -> None:
        self._tokenizer = tokenizer
        self._anchor = self._encode([ANCHOR])[0]
        special = set(tokenizer.all_special_tokens) | {
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special or (token.content in own_words and not token.content.isspace())
        }
        # One of a single character cannot be taken apart; longer ones are looked for first.
        names = sorted((name for name in special if len(name) > 1), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def first(self, text: str) -> list[int]:
        """Encodes what a text begins with; special tokens in it are special tokens."""
        return self._encode([text])[0]

    def following(self, text: str) -> list[int]:
        """Encodes what follows other text; special tokens in it are special tokens."""
        return self._behind_anchor([text])[0]

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes pieces that follow other text; special tokens in them are plain characters."""
        encoded = self._behind_anchor(texts)
        for row, text in enumerate(texts):
            if self._special.search(text):
                parts = self._behind_anchor(self._apart(text))
                encoded[row] = [token for part in parts for token in part]
        return encoded

    def _apart(self, text: str) -> list[str]:
        """Cuts every special token behind its first character.

        Telling the tokenizer not to look for them does not do: vocabularies may hold them as words.
        """
        parts = []
        while match := self._special.search(text):
            cut = match.start() + 1
            parts.append(text[:cut])
            text = text[cut:]
        return [*parts, text]

    def _behind_anchor(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._encode([ANCHOR + text for text in texts])
        size = len(self._anchor)
        # Where a tokenizer joins the anchor with the piece, the piece is encoded by itself.
        alone = [row for row, tokens in enumerate(encoded) if tokens[:size] != self._anchor]
        pieces = [tokens[size:] for tokens in encoded]
        for row, tokens in zip(alone, self._encode([texts[row] for row in alone]), strict=True):
            pieces[row] = tokens
        return pieces

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        options = {"add_special_tokens": False, "return_attention_mask": False}
        encoded: list[list[int]] = []
        for start in range(0, len(texts), AT_ONCE):
            encoded += self._tokenizer(list(texts[start : start + AT_ONCE]), **options)["input_ids"]
        return encoded
