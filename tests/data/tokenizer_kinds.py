"""Small tokenizers of several kinds, trained on the spot."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from laser_peft.data.prompt_template import INSTRUCTION

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    INSTRUCTION + "1. Red lamp (brand: Alba; category: Home, Lamps)\n2. brand: Borun\n3. Blue",
    "user assistant You help. 0123456789 <>|_/ is no end im_end im_start Taste: chair lamp\n",
    "\n\n\n",
]


def byte_bpe(words=None):
    """With a pattern of words, else with that of GPT-2."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if words:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(words), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return backend, trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )


def unigram():
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return backend, trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )


def bpe_across_spaces():
    """Spaces are letters, a text gets one in front, and a word may begin anywhere."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend, trainers.BpeTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)


def bpe_with_prefix_space():
    """As SentencePiece BPE is converted: the same, but a space only begins a word."""
    backend, trainer = bpe_across_spaces()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split("▁", "merged_with_next")]
    )
    return backend, trainer


def word_piece():
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend, trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=SPECIAL, show_progress=False
    )


def trained_tokenizer(make):
    backend, trainer = make()
    backend.train_from_iterator(CORPUS, trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    extra = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names, **extra)


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def with_chat(tokenizer, chat_template):
    """The same tokenizer, with a chat template."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        chat_template=chat_template,
        **tokenizer.special_tokens_map,
    )


EXACT_KINDS = [byte_bpe, unigram, bpe_with_prefix_space, word_piece]
