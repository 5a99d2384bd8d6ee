"""Bases in 4 and 8 bits, through transformers' ordinary loading."""

import pytest
import torch
from adapters import B, T, adapter_of, make_batch, make_model
from conftest import VOCABULARY
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    TorchAoConfig,
)

# bitsandbytes speaks of casts and of what its versions deprecate.
pytestmark = pytest.mark.filterwarnings("ignore")


def four_bit():
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )


def eight_bit():
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(load_in_8bit=True)


def torchao_int8():
    quantization = pytest.importorskip("torchao.quantization")
    return TorchAoConfig(quantization.Int8WeightOnlyConfig())


@pytest.mark.parametrize("quantization", [four_bit, eight_bit, torchao_int8])
def test_a_quantized_base_trains_saves_and_stays_close(quantization, encoder_folder, tmp_path):
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "lm")
    whole = make_model(AutoModelForCausalLM.from_pretrained(tmp_path / "lm"), encoder_folder)
    whole.save_pretrained(str(tmp_path / "adapter"))

    def quantized():
        return AutoModelForCausalLM.from_pretrained(
            tmp_path / "lm", quantization_config=quantization(), device_map="cpu"
        )

    batch = make_batch()
    expected = whole(**batch).user_vectors
    model = PeftModel.from_pretrained(quantized(), str(tmp_path / "adapter"), is_trainable=True)
    assert {p.dtype for p in adapter_of(model).parameters()} == {torch.float32}
    output = model.eval()(**batch, labels=torch.tensor([1, 2, 3]))
    assert 0 < (output.user_vectors - expected).norm() < 0.1 * expected.norm()
    output.loss.backward()
    assert all(p.grad is not None for p in adapter_of(model).parameters())

    # On fresh bases: on a CPU, bitsandbytes repacks weights between training and inference.
    one, two = (PeftModel.from_pretrained(quantized(), str(tmp_path / "adapter")) for _ in range(2))
    one.save_pretrained(str(tmp_path / "again"))
    two = PeftModel.from_pretrained(two.unload(), str(tmp_path / "again"))
    with torch.no_grad():
        assert torch.equal(two(**batch).user_vectors, one(**batch).user_vectors)
    assert one.generate(batch["input_ids"], max_new_tokens=2, pad_token_id=0).shape == (B, T + 2)
