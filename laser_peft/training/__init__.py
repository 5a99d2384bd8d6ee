"""Training on transformers' Trainer: the SASRec first, then the adapter that reads it."""

from .datasets import HistoryDataset, NextItemDataset, PromptDataset
from .laser import LaserSettings, train_laser
from .laser_trainer import LaserTrainer
from .phases import phases_of, train_in_phases
from .ranking_trainer import (
    RankingTrainer,
    best_checkpoint_arguments,
    by_length,
    rank_dataset,
    ranking_arguments,
)
from .sasrec import SASRecSettings, train_sasrec
from .twin import twin_settings

__all__ = [
    "HistoryDataset",
    "LaserSettings",
    "LaserTrainer",
    "NextItemDataset",
    "PromptDataset",
    "RankingTrainer",
    "SASRecSettings",
    "best_checkpoint_arguments",
    "by_length",
    "phases_of",
    "rank_dataset",
    "ranking_arguments",
    "train_in_phases",
    "train_laser",
    "train_sasrec",
    "twin_settings",
]
