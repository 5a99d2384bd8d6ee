"""Recommendations for a Parquet table of histories: streamed, resumable, in shards."""

from .histories import HistoryTable
from .job import BatchSettings, Summary, recommend_table
from .shards import Shard

__all__ = ["BatchSettings", "HistoryTable", "Shard", "Summary", "recommend_table"]
