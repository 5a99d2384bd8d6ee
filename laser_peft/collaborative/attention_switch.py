"""Lets a language model switch its attention while an encoder hangs in it."""


class AttendsInItsOwnWay:
    """An encoder that computes the same whatever ``attn_implementation`` is asked of it.

    ``set_attn_implementation`` of a language model asks all models within, an adapter's encoder
    among them, and fails for one that does not say that it takes every kind.
    """

    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
