"""What an epoch of a SASRec's training computes: its real positions, to the end of a plain loop."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import get_cosine_schedule_with_warmup

from laser_peft import SASRecModel
from laser_peft.collaborative import sasrec as sasrec_file
from laser_peft.data import Catalogue, Histories, PaddingCollator, leave_one_out, read_interactions
from laser_peft.training import NextItemDataset, SASRecSettings
from laser_peft.training.sasrec import sasrec_trainer

MAX_ITEMS = 11


@pytest.fixture(scope="module")
def split(shop):
    catalogue = Catalogue.read(shop / "items.jsonl")
    log = read_interactions(shop / "interactions.csv.gz")
    return leave_one_out(Histories.from_interactions(log, catalogue))


def trainer_of(split, folder, **settings):
    settings = SASRecSettings(**{"hidden_size": 8, "epochs": 1, "item_dropout": 0.0} | settings)
    torch.manual_seed(0)
    model = SASRecModel(settings.model_config(num_items=23, max_items=MAX_ITEMS))
    return sasrec_trainer(model, split, 23, folder, settings, max_items=MAX_ITEMS)


def test_an_epoch_scores_every_training_pair_once_and_no_padding(split, tmp_path, monkeypatch):
    scored, encoded = [], []
    loss = sasrec_file.next_item_loss
    monkeypatch.setattr(
        sasrec_file,
        "next_item_loss",
        lambda states, items, labels, *rest: (
            scored.append(labels),
            loss(states, items, labels, *rest),
        )[1],
    )
    trainer = trainer_of(split, tmp_path, batch_size=7)
    trainer.model.to_next_item.register_forward_hook(
        lambda module, inputs, output: encoded.append(len(output)) if module.training else None
    )
    trainer.train()
    dataset = NextItemDataset(split.train_histories, MAX_ITEMS)
    expected = sorted(int(item) for row in dataset for item in row["labels"])
    assert sorted(torch.cat(scored).tolist()) == expected
    assert encoded == [len(labels) for labels in scored]
    assert len(encoded) > 1


def test_training_ends_where_a_padded_plain_loop_ends(split, tmp_path):
    epochs = 3
    trainer = trainer_of(split, tmp_path, epochs=epochs, dropout=0.0, batch_size=1000, patience=9)
    plain = copy.deepcopy(trainer.model).train()
    trainer.args.load_best_model_at_end = False
    trainer.train()

    batch = PaddingCollator()(list(NextItemDataset(split.train_histories, MAX_ITEMS)))
    optimizer = torch.optim.AdamW(plain.parameters(), lr=2e-3, weight_decay=0.1)
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, epochs)
    for _ in range(epochs):
        states = plain(batch["input_ids"]).last_hidden_state  # (B, L, C), padding and all
        scores = states @ plain.item_vectors().T
        labels = torch.where(batch["labels"] > 0, batch["labels"] - 1, -100)
        optimizer.zero_grad()
        F.cross_entropy(scores.flatten(0, 1), labels.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    for (name, learnt), (_, expected) in zip(
        trainer.model.named_parameters(), plain.named_parameters(), strict=True
    ):
        torch.testing.assert_close(learnt, expected, rtol=1e-4, atol=2e-6, msg=name)
