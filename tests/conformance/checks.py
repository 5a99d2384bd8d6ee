"""What every causal language model class must do with a Bi-Tuning adapter.

Axes: B users, T text tokens, L items in a history.
"""

import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from tiny_models import CANNOT_BUILD, VOCAB_SIZE, Family, tiny_lm
from torch import Tensor

from laser_peft import BiTuningConfig

B, T, L = 3, 7, 4
NUM_NEW = 3
WORKS, REFUSED, NOT_BUILT = "works", "refused", "not built"
# Float32 sums in another order (padded or not, one user or three) differ by about this much.
TOLERANCE = {"atol": 2e-4, "rtol": 2e-4}


@dataclass(frozen=True)
class Outcome:
    """How a class fared: one of the three statuses above, or a failed step, and why."""

    status: str
    reason: str = ""


def check(family: Family, encoder_folder: str) -> Outcome:
    """Takes one class through every step; the first that goes wrong is its status."""
    if family.model_type in CANNOT_BUILD:
        return Outcome(NOT_BUILT, CANNOT_BUILD[family.model_type])
    lm = tiny_lm(family)
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    try:
        model = get_peft_model(lm, _config(encoder_folder))
    except ValueError as refusal:
        return Outcome(REFUSED, str(refusal))
    steps = {
        "train step": lambda: _train(model, before),
        "padding and batch-mates": lambda: _padding(model),
        "save and reload": lambda: _reload(model, family),
        "generate": lambda: _generate(model),
    }
    for name, step in steps.items():
        try:
            step()
        except Exception as error:  # whatever it is, it belongs in the table
            return Outcome(f"fails: {name}", f"{type(error).__name__}: {error}".splitlines()[0])
    return Outcome(WORKS)


def _config(encoder_folder: str) -> BiTuningConfig:
    return BiTuningConfig(
        collaborative_encoder=encoder_folder,
        layout="text_first",
        num_prefix_tokens=3,
        num_suffix_tokens=2,
        m_former_hidden_size=16,
        m_former_num_layers=1,
        m_former_dropout=0.0,
    )


def _batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        "input_ids": torch.randint(3, VOCAB_SIZE, (B, T), generator=generator),
        "history": torch.randint(1, 24, (B, L), generator=generator),
    }


def _train(model: PeftModel, before: dict[str, Tensor]) -> None:
    adapter = model.base_model.layer.bituning_adapters["default"]
    torch.manual_seed(0)
    torch.nn.init.normal_(adapter.head.projection.weight, std=0.1)
    learns = {name: p for name, p in model.named_parameters() if p.requires_grad}
    start = {name: p.detach().clone() for name, p in learns.items()}
    model.train()
    output = model(**_batch(), labels=torch.tensor([1, 2, 3]))
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learns.values())
    torch.optim.SGD(learns.values(), lr=0.1).step()
    model.zero_grad()
    model.eval()
    moved = {name.split("default.")[1].split(".")[0] for name, p in learns.items()
             if not torch.equal(p, start[name])}  # fmt: skip
    assert moved == {"m_former", "suffix", "head"}, f"only {sorted(moved)} learn"
    frozen = model.base_model.model.state_dict()
    assert all(torch.equal(frozen[name], value) for name, value in before.items()), "LM changed"


@torch.no_grad()
def _padding(model: PeftModel) -> None:
    batch = _batch()
    ids, history = batch["input_ids"], batch["history"]
    plain = model(**batch).user_vectors
    for side in ("left", "right"):
        padded = {"input_ids": _pad(ids, 9, side), "history": _pad(history, 0, side)}
        mask = _pad(torch.ones_like(ids), 0, side)
        actual = model(**padded, attention_mask=mask).user_vectors
        torch.testing.assert_close(actual, plain, **TOLERANCE)
    keep = [0, 2, 3, 6]
    holes = torch.zeros_like(ids)
    holes[:, keep] = 1
    actual = model(input_ids=ids, attention_mask=holes, history=history).user_vectors
    expected = model(input_ids=ids[:, keep], history=history).user_vectors
    torch.testing.assert_close(actual, expected, **TOLERANCE)
    alone = model(input_ids=ids[1:2, keep], history=history[1:2]).user_vectors
    torch.testing.assert_close(alone, expected[1:2], **TOLERANCE)
    other = model(input_ids=VOCAB_SIZE + 2 - ids, history=history).user_vectors
    assert (other - plain).abs().max() > 1e-3, "the text does not matter"


@torch.no_grad()
def _reload(model: PeftModel, family: Family) -> None:
    batch = _batch()
    expected = model(**batch, return_logits=True)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(tiny_lm(family), folder)
    actual = loaded(**batch, return_logits=True)
    torch.testing.assert_close(actual.user_vectors, expected.user_vectors, atol=0, rtol=0)
    torch.testing.assert_close(actual.logits, expected.logits, atol=0, rtol=0)


@torch.no_grad()
def _generate(model: PeftModel) -> None:
    """Greedy text is the argmax of plain forwards, also left-padded; and the prefix matters.

    Where the bare class itself continues a padded text otherwise, or plain forwards, so may ours.
    """
    batch = _batch()
    ids, history = batch["input_ids"], batch["history"]
    greedy = _write(model, ids, history=history)
    written = greedy.sequences
    by_hand = _write_by_hand(model, ids, history=history, return_user_vectors=False)
    if not torch.equal(written, by_hand):
        with model.disable_adapter():
            bare = _write(model, ids).sequences
            unequal = not torch.equal(bare, _write_by_hand(model, ids))
        assert unequal, "differs from plain forwards"
    mask, padded = _pad(torch.ones_like(ids), 0, "left"), _pad(ids, 9, "left")
    difference = _first_logits(model, padded, history=history, attention_mask=mask)
    difference = difference - greedy.logits[0]
    if difference.abs().max() > TOLERANCE["atol"]:
        with model.disable_adapter():  # positions of some classes count the pads
            bare = _first_logits(model, padded, attention_mask=mask) - _first_logits(model, ids)
        assert bare.abs().max() > TOLERANCE["atol"], "left-padded text is continued otherwise"
    as_scored = model(
        input_ids=padded, attention_mask=mask, history=history, return_user_vectors=False
    ).logits[:, -1]
    plain = model(input_ids=ids, history=history, return_user_vectors=False).logits
    assert plain.shape == (B, T, VOCAB_SIZE), f"logits {tuple(plain.shape)}"
    torch.testing.assert_close(as_scored, plain[:, -1], **TOLERANCE)
    with model.disable_adapter():
        bare = model(input_ids=ids).logits
    assert (bare - plain).abs().max() > 1e-4, "the prefix does not matter"


def _first_logits(model: PeftModel, ids: Tensor, **inputs: Tensor) -> Tensor:
    return _write(model, ids, max_new_tokens=1, **inputs).logits[0]


def _write(model: PeftModel, ids: Tensor, max_new_tokens: int = NUM_NEW, **inputs: object) -> Any:
    return model.generate(
        input_ids=ids,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        forced_eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
        **inputs,
    )


def _write_by_hand(model: PeftModel, ids: Tensor, **inputs: object) -> Tensor:
    for _ in range(NUM_NEW):
        logits = model(input_ids=ids, **inputs).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    return ids


def _pad(values: Tensor, value: int, side: str, width: int = 2) -> Tensor:
    padding = values.new_full((len(values), width), value)
    return torch.cat([padding, values] if side == "left" else [values, padding], 1)
