"""How long prompts may be beside the virtual tokens of an adapter."""

from transformers import AutoConfig

from laser_peft.tuner import BiTuningConfig

from .files import no_such_model

DEFAULT_MAX_TOKENS = 512


def prompt_limit(llm_name: str, adapter: BiTuningConfig, wanted: int | None) -> int:
    """Returns the longest prompt in tokens that leaves the LM room for the virtual tokens.

    Args:
        llm_name: folder or Hub id of the language model.
        adapter: with the virtual tokens.
        wanted: asked for; None: 512, or less where there is no room for so many.

    Raises:
        FileNotFoundError: if there is no such language model.
        ValueError: if there is no room for what is wanted, or for any prompt.
    """
    try:
        config = AutoConfig.from_pretrained(llm_name).get_text_config()
    except ValueError as error:
        raise ValueError(f"cannot load the language model {llm_name!r}: {error}") from error
    except OSError as error:
        raise no_such_model(llm_name, error) from error
    context = getattr(config, "max_position_embeddings", None)
    virtual = adapter.num_prefix_tokens + adapter.num_suffix_tokens
    room = DEFAULT_MAX_TOKENS if context is None else context - virtual
    if room < 1:
        raise ValueError(
            f"{virtual} virtual tokens leave no room in the {context} tokens that {llm_name} "
            "reads; use fewer prefix and suffix tokens"
        )
    if wanted is None:
        return min(DEFAULT_MAX_TOKENS, room)
    if context is not None and wanted > room:
        raise ValueError(
            f"max_tokens ({wanted}) with {virtual} virtual tokens is more than the {context} "
            f"tokens that {llm_name} reads; use at most {room}"
        )
    return wanted
