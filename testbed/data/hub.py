"""Loads datasets from the Hugging Face hub by name."""

import logging
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from testbed.core.errors import UserError
from testbed.data.layout import DEFAULT_CHOICE, SplitChoice, choose_splits
from testbed.data.tables import BATCH_ROWS, EncodedTable, Tables, filled_tables

TIMEOUT_S = 10


def hub_tables(repository: str, advice: str, choice: SplitChoice = DEFAULT_CHOICE) -> Tables:
    """Load a hub dataset through ``datasets`` (which keeps its usual cache).

    Parameters
    ----------
    repository : name on the hub, for instance ``uoft-cs/cifar10``.
    advice : the end of the message when the hub fails: what else a user can do.

    Raises
    ------
    UserError : the hub cannot be reached in ``TIMEOUT_S`` seconds, or has no such dataset; no such
        split, or one without rows.
    """
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(TIMEOUT_S))
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(TIMEOUT_S))
    import datasets  # slow to import; reads the time limits on import

    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        _probe(repository)
        loaded = datasets.load_dataset(repository, *filter(None, [choice.subset]))
    except Exception as error:  # downloads raise errors of many kinds
        reason = str(error).strip().splitlines()
        raise UserError(
            f"data: cannot load {repository} from the hub "
            f"({type(error).__name__}{': ' + reason[0][:120] if reason else ''}; with "
            f"HF_HUB_OFFLINE=1 an earlier download is used) and there is {advice}"
        ) from None
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    chosen, notes = choose_splits(
        {split: [(split, data)] for split, data in splits.items()},
        choice,
        repository,
        lambda item: f"{item[0]} of the hub",
    )
    tables = [
        _hub_table(f"{repository} ({split})", data, is_test)
        for (split, data), is_test in sorted(chosen, key=lambda item: item[0][0])
    ]
    return filled_tables(tables, notes)


def _probe(repository: str) -> None:
    """Fail at once without a network; ``load_dataset`` would retry for half a minute.

    With ``HF_HUB_OFFLINE=1`` only the cache is used.
    """
    import huggingface_hub

    if not huggingface_hub.constants.HF_HUB_OFFLINE:
        huggingface_hub.HfApi().dataset_info(repository, timeout=TIMEOUT_S)


def _hub_table(where: str, data: Any, official_test: bool) -> EncodedTable:
    def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
        encoded = data.select_columns(columns).with_format("arrow")
        for table in encoded.iter(batch_size=BATCH_ROWS):
            yield from table.combine_chunks().to_batches()

    return EncodedTable(
        where=where,
        official_test=official_test,
        rows=len(data),
        schema=data.features.arrow_schema,
        features=data.features.to_dict(),
        batches=batches,
    )
