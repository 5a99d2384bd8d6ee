import pytest

from laser_peft import SASRecConfig, SASRecModel, numbering


def test_a_signed_encoder_meets_its_own_catalogue_only(tmp_path):
    config = SASRecConfig(num_items=3, hidden_size=2)
    numbering.check(config, ["a", "b", "c"])  # tells nothing yet
    numbering.sign(config, ["a", "b", "c"])
    SASRecModel(config).save_pretrained(tmp_path)
    loaded = SASRecConfig.from_pretrained(tmp_path)
    numbering.check(loaded, ["a", "b", "c"])
    for others in (["b", "a", "c"], ["a", "b", "d"], ["a", "b"], ["a,b", "c"]):
        with pytest.raises(ValueError, match="trained on other items, or the same in another ord"):
            numbering.check(loaded, others)
