"""Tables that lack a column, or hold other values than were written, end in one line."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foundation import parquet
from foundation.errors import NotAsWritten
from pipeline.datasets.prepared import Columns


def table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("gold", [[1, None], ["1", "nan"], [b"\xff", b""], [1.5, 2.0], [{"a": 1}, None]])
def test_a_column_of_whole_numbers_holds_nothing_else_and_lacks_none(tmp_path, gold):
    path = table(tmp_path / "mentions.parquet", id=["a", "b"], gold=gold)
    with pytest.raises(NotAsWritten, match=r"mentions\.parquet: .*column 'gold' holds .* missing values.*; ."):
        parquet.read(path, needs={"id": "string", "gold": "integer"})


def test_a_column_that_is_needed_and_is_not_there_is_named(tmp_path):
    path = table(tmp_path / "mentions.parquet", id=["a"])
    with pytest.raises(NotAsWritten, match="no column 'gold'"):
        parquet.read(path, needs={"gold": "integer"})
    columns = Columns(path)
    assert "id" in columns and "gold" not in columns and columns.get("gold") is None and columns.get("id") == ["a"]
    with pytest.raises(NotAsWritten, match=r"mentions\.parquet: it has no column 'gold'"):
        columns["gold"]


def test_a_column_that_is_there_twice_is_named(tmp_path):
    path = tmp_path / "mentions.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["id", "id"]), path)
    with pytest.raises(NotAsWritten, match=r"mentions\.parquet: .*it has the column 'id' twice"):
        Columns(path)["id"]
