"""Columns of the four tables: declared once, written and read from there."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from small import write_rows

from testbed.results.columns import TABLES, arrow_schema
from testbed.results.reading import read_table


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_written_and_read_by_its_declaration(table, tmp_path):
    write_rows(tmp_path, table, [{"arm": "a"}, {}])
    assert pq.read_schema(tmp_path / f"{table}.parquet").equals(arrow_schema(table))
    rows = read_table(tmp_path, table)
    assert list(rows.columns) == [column.name for column in TABLES[table]]
    assert rows["arm"].tolist() == ["a", None]
    for column in TABLES[table][1:]:
        assert rows[column.name].dtype == (object if column.type == "text" else np.float64)
