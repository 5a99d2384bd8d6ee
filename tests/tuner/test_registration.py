import importlib

import pytest
from peft import LoraConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

import laser_peft.tuner
from laser_peft import BiTuningConfig, BiTuningModel
from laser_peft.tuner import registration


def test_member_is_a_real_one():
    member = registration.peft_type()
    assert member is PeftType("BITUNING") is PeftType["BITUNING"] is PeftType.BITUNING
    assert member == "BITUNING"
    assert member.value == "BITUNING"
    assert member in list(PeftType)


def test_registering_twice_does_nothing():
    registration.register(BiTuningConfig, BiTuningModel)
    importlib.reload(laser_peft.tuner)
    assert PEFT_TYPE_TO_CONFIG_MAPPING["BITUNING"] is BiTuningConfig


def test_a_name_owned_by_another_package_is_said(monkeypatch):
    monkeypatch.setitem(PEFT_TYPE_TO_CONFIG_MAPPING, registration.peft_type(), LoraConfig)
    with pytest.raises(RuntimeError, match="already has a method called BITUNING, from peft"):
        registration.register(BiTuningConfig, BiTuningModel)


def test_an_enum_built_differently_is_said(monkeypatch):
    class Broken(dict):
        def __setitem__(self, key, value):
            pass

    monkeypatch.setattr(registration, "NAME", "BITUNING_PROBE")
    monkeypatch.setattr(PeftType, "_member_map_", Broken(PeftType._member_map_))
    names = list(PeftType._member_names_)
    try:
        with pytest.raises(RuntimeError, match="could not add BITUNING to peft.PeftType"):
            registration.peft_type()
    finally:
        PeftType._member_names_[:] = names
        PeftType._value2member_map_.pop("BITUNING_PROBE", None)
        if "BITUNING_PROBE" in vars(PeftType):
            type.__delattr__(PeftType, "BITUNING_PROBE")
