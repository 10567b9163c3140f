"""Files of columns: what CSV and Parquet files hold, as numbers or text, and what is refused, by row and column."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pyarrow
import pytest
from layerserve import InvalidArgument
from layerserve.errors import InvalidTensor
from layerserve.values.table_files import csv_table, parquet_table
from layerserve.values.table_files.formats import open_table
from layerserve.values.table_files.table import PIECE, Selection
from peak_memory import PeakMemory
from pyarrow import parquet

DAY = datetime.date(2026, 11, 28)
TIME = datetime.datetime(2026, 11, 28, 6, 43, 54)
#: Of the two, in seconds.
DAY_SECONDS, TIME_SECONDS = 1795824000.0, 1795848234.0


def read(path, *selections):
    """The described arrays, and their elements."""
    with path.open("rb") as file:
        table = open_table(file, path.suffix, path.name)
        found = table.described(selections)
    pieces = [[] for _ in found]
    with path.open("rb") as file:
        for index, piece in open_table(file, path.suffix, path.name).pieces(found):
            pieces[index].append(piece)
    values = [np.concatenate(each).reshape(array.shape) for each, array in zip(pieces, found, strict=True)]
    for value, array in zip(values, found, strict=True):
        assert value.dtype == (object if array.dtype == "string" else array.dtype)
    return found, values


@pytest.fixture(name="csv")
def _csv(tmp_path):
    def write(text, suffix=".csv"):
        path = tmp_path / f"t{suffix}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture(name="table")
def _table(tmp_path):
    def write(**columns):
        parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    return write


def test_columns_of_a_csv_file_are_read_in_one_pass(csv, monkeypatch):
    path = csv('\ufeffage,city,price\n1,"x ""y"", z",2.5\n2,"l1\nl2",3\n')
    passes = []
    original = csv_table.CsvTable._batches
    monkeypatch.setattr(csv_table.CsvTable, "_batches", lambda *a: passes.append(a) or original(*a))
    selections = (Selection(name="age", text=False), Selection(("city",), text=True), Selection(key="age,price"))
    found, (ages, cities, both) = read(path, *selections)
    assert len(passes) == 2, "one to describe them, one to read them"
    assert [(one.dtype, one.shape) for one in found] == [("int64", (2,)), ("string", (2,)), ("float64", (2, 2))]
    assert ages.tolist() == [1, 2]
    assert cities.tolist() == [b'x "y", z', b"l1\nl2"]
    assert both.tolist() == [[1, 2.5], [2, 3]]


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize(("field", "text"), [('""', b""), ('""""', b'"'), ('"x"', b"x"), ('"x"""', b'x"')])
def test_the_last_field_of_a_file_may_be_quoted(csv, field, text, end):
    _, (got,) = read(csv(f"a,b\n1,y\n2,{field}{end}"), Selection(("b",), text=True))
    assert got.tolist() == [b"y", text]


@pytest.mark.parametrize(
    ("fields", "dtype", "values"),
    [
        (["1", "-2"], "int64", [1, -2]),
        (["1", "2.5"], "float64", [1, 2.5]),
        (["1", "1e3", "nan", "-inf"], "float64", [1, 1000, np.nan, -np.inf]),
        (["9007199254740993"], "int64", [2**53 + 1]),
        (["1", "99999999999999999999"], "float64", [1, 1e20]),
        (["true", "False"], "bool", [True, False]),
        ([" 1", "2 "], "int64", [1, 2]),
        (["2026-11-28", "2026-11-28T06:43:54"], "float64", [DAY_SECONDS, TIME_SECONDS]),
        (["2026-11-28T07:43:54+01:00", "2026-11-28 06:43:54.5Z"], "float64", [TIME_SECONDS, TIME_SECONDS + 0.5]),
        (["06:43", "06:43:30"], "float64", [24180, 24210]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_numbers_in_csv(csv, fields, dtype, values):
    (found,), (got,) = read(csv("\n".join(["a", *fields])), Selection(("a",)))
    assert found.dtype == dtype
    np.testing.assert_array_equal(got, np.array(values, dtype))
    (found,), (got,) = read(csv("\n".join(["a", *fields])), Selection(("a",), text=True))
    assert got.tolist() == [field.encode() for field in fields], "text is what the file has"


def test_a_column_that_begins_with_text_is_text_where_it_may_be(csv):
    path = csv("a,b\n,1\nyes,2\n3,x\n")
    found, _ = read(path, Selection(("a",)))
    assert found[0].dtype == "string"
    for selection in (Selection(("a",), text=False), Selection(("b",))):
        with pytest.raises(InvalidTensor, match="expected a number"):
            read(path, selection)


def test_the_kind_of_a_column_is_that_of_all_its_fields(csv, monkeypatch):
    # Blocks of a few rows: the first have integers only.
    monkeypatch.setattr(csv_table, "MAX_ROW", 64)
    rows = [str(number) for number in range(100)]
    (found,), (got,) = read(csv("\n".join(["a", *rows, "0.5"])), Selection(("a",)))
    assert (found.dtype, found.shape, got[-1]) == ("float64", (101,), 0.5)
    with pytest.raises(InvalidTensor, match="column 'a', row 101: got 'x', expected a number"):
        read(csv("\n".join(["a", *rows, "x"])), Selection(("a",)))
    with pytest.raises(InvalidTensor, match="row 101: got 2 fields, expected 1"):
        read(csv("\n".join(["a", *rows, "1,2"])), Selection(("a",)))


@pytest.mark.parametrize(
    ("text", "selection", "error"),
    [
        ("a,b\n1,2\n,1\n", Selection(("a",)), "column 'a', row 2: got an empty field, expected a number; set `fill`"),
        ("a,b\n1,2\nNA,1\n", Selection(("a",)), "column 'a', row 2: got 'NA', expected a number"),
        ("a\nyes\nno\n", Selection(("a",), text=False), "column 'a', row 1: got 'yes', expected a number"),
        ("a,b\n1,x\n", Selection(), "got columns of numbers and of text ('b'), expected one kind"),
        ("a\n\nx\n", Selection(("a",), text=False, fill="z"), "row 1: got 'x', expected a number"),
        ("a,b\n1,2\n3\n", Selection(("a",)), "t.csv, row 2: got 1 fields, expected 2"),
        ("a,b\n1,2\n3,4,5\n", Selection(("a",)), "t.csv, row 2: got 3 fields, expected 2"),
        ('a,b\n1,2\n3,"open\n', Selection(("a",)), "row 2: got a quotation mark that is never closed"),
        ('a,b\n1,2\n3,"', Selection(("a",)), "row 2: got a quotation mark that is never closed"),
        ('a,b\n1,2\n3,"""', Selection(("a",)), "row 2: got a quotation mark that is never closed"),
        ("a,a\n1,2\n", Selection(("a",)), "got 2 columns 'a', expected one"),
        (",a\n0,1\n", Selection(), "got a column without a name; name the columns to read"),
        ("a;b\n1;2\n", Selection(("a",)), "t.csv: got fields separated by semicolons, expected commas; write it again"),
        ("a;b\n0,5;0,25\n", Selection(), "got fields separated by semicolons, expected commas"),
        ("a\tb\n1\t2\n", Selection(), "got fields separated by tabs, expected commas; write it again, such as"),
        ("a|b\n1|2\n", Selection(), "got fields separated by vertical bars"),
        ("5.1,3.5\n1,2\n", Selection(), "the first line has numbers only (5.1, 3.5, ...), expected the names"),
        ("5.1,3.5\n1,2\n", Selection(("x",)), "the first line must name the columns"),
        (",".join(f"c{n}" for n in range(21)), Selection(("d",)), "t.csv: unknown column 'd'"),
        ("ages\n1\n", Selection(("age",)), "unknown column 'age'; did you mean 'ages'?"),
        ("", Selection(), "the file is empty"),
        ("a,\xfc\n1,2\n".encode("latin1"), Selection(), "first line: got bytes that are no UTF-8"),
        (b"a\x80,b\n1,2\n", Selection(), "first line: got bytes that are no UTF-8"),
        (b"a,\xff\n1,2\n", Selection(), "first line: got bytes that are no UTF-8"),
        ("a\nb\n\xfc\n".encode("latin1"), Selection(text=True), "column 'a', row 2: got bytes that are no UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), Selection(), "got UTF-16, expected UTF-8"),
        ("a,b\n1," + "x" * (20 << 20) + "\n", Selection(("a",)), "got a row of more than 8388608 bytes"),
        ('a,b\n1,2\n3,"x' + "\ny" * (10 << 20), Selection(("a",)), "is a quotation mark never closed?"),
        (",".join(map(str, range(70_000))), Selection(), "got 70000 columns, expected at most 65536"),
        ("a" * (2 << 20), Selection(), "got a first line of more than 1048576 bytes"),
    ],
    ids=lambda value: None if isinstance(value, Selection) else value[:20],
)
def test_what_is_refused_in_csv(csv, text, selection, error):
    with pytest.raises(InvalidArgument) as caught:
        read(csv(text), selection)
    assert error in str(caught.value)


def test_what_only_looks_wrong_in_csv(csv):
    assert read(csv('a,b\n1,""\n'), Selection(("b",), text=True))[1][0].tolist() == [b""]
    assert read(csv('a,b\n1,x"\n'), Selection(("b",), text=True))[1][0].tolist() == [b'x"']
    assert read(csv('a,b\n1,"x\n"\n'), Selection(("b",), text=True))[1][0].tolist() == [b"x\n"]
    assert read(csv("0,1\n5,6\n"), Selection())[1][0].tolist() == [[5, 6]], "pandas names columns so"
    assert read(csv(",a\n0,1\n"), Selection(("a",)))[1][0].tolist() == [1]
    assert read(csv("a\r\n1\r\n2\r\n"), Selection())[1][0].tolist() == [1, 2]
    assert read(csv('a\tb\n1\t"x,y"\n', ".tsv"), Selection(("b",), text=True))[1][0].tolist() == [b"x,y"]
    with csv("a,b").open("rb") as file:
        assert open_table(file, ".csv", "t").described([Selection()])[0].shape == (0, 2)


def test_missing_values_are_filled(csv, table):
    assert read(csv("a,b\n1,2\n,1\nNA,3\n"), Selection(("a",), fill="0"))[1][0].tolist() == [1, 0, 0]
    path = table(n=[1, None], t=pyarrow.array(["x", None]).dictionary_encode(), l=[[1.0, 2.0], [3.0, None]])
    found = read(path, Selection(("n",), fill="7"), Selection(("t",), text=True, fill="?"), Selection(("l",), fill="7"))
    assert [values.tolist() for values in found[1]] == [[1, 7], [b"x", b"?"], [[1, 2], [3, 7]]]
    for column, row in (("n", 2), ("t", 2), ("l", 2)):
        with pytest.raises(InvalidTensor, match=rf"column '{column}', row {row}: got no value \(null\), expected one"):
            read(path, Selection((column,)))
    with pytest.raises(InvalidArgument, match="column 'n': can't fill with 'x', expected a value of type int64"):
        read(path, Selection(("n",), fill="x"))
    with pytest.raises(InvalidArgument, match="column 'whole': can't fill with 'x'"):
        read(table(whole=[1]), Selection(("whole",), fill="x"))


def test_names_with_commas(csv, table):
    path = table(**{"a,b": [1], "c": [2]})
    for selection in (Selection(("a,b",)), Selection(key="a,b"), Selection(name="a,b")):
        assert read(path, selection)[1][0].tolist() == [1]
    assert read(path, Selection(("a,b", "c")))[1][0].tolist() == [[1, 2]]
    # What `key` has always meant goes first.
    assert read(csv('a,b,"a,b"\n1,2,3\n'), Selection(key="a,b"))[1][0].tolist() == [[1, 2]]


def test_dates_decimals_and_lists_of_parquet(table):
    utc = pyarrow.array([TIME], pyarrow.timestamp("ns", "UTC"))
    path = table(
        date=[DAY],
        time=[TIME],
        utc=utc,
        clock=[datetime.time(6, 43)],
        money=[Decimal("1.50")],
        flag=[True],
        vector=[[1.0, 2.0]],
        fixed=pyarrow.array([[1, 2]], pyarrow.list_(pyarrow.int32(), 2)),
        words=[["a", "b"]],
        nested=[[[1], [2]]],
    )
    for name, number, text in (
        ("date", DAY_SECONDS, b"2026-11-28"),
        ("time", TIME_SECONDS, b"2026-11-28T06:43:54"),
        ("utc", TIME_SECONDS, b"2026-11-28T06:43:54+00:00"),
        ("clock", 24180.0, b"06:43:00"),
    ):
        _, (numbers, texts) = read(path, Selection((name,), text=False), Selection((name,), text=True))
        assert (numbers.tolist(), texts.tolist()) == ([number], [text])
    names = ("money", "flag", "vector", "fixed", "words", "nested")
    _, found = read(path, *[Selection((name,)) for name in names])
    assert [values.tolist() for values in found] == [[1.5], [True], [[1, 2]], [[1, 2]], [[b"a", b"b"]], [[[1], [2]]]]


def test_a_large_parquet_file_is_read_in_pieces(table):
    for values, most in ((np.arange(10_000), parquet_table.MAX_ROWS), ([[0.0] * 1000] * 500, PIECE // 8000)):
        path = table(a=values)
        with path.open("rb") as file:
            opened = open_table(file, path.suffix, path.name)
            rows = [len(piece) for _, piece in opened.pieces(opened.described([Selection(("a",))]))]
        assert sum(rows) == len(values)
        assert max(rows) <= most


def test_lists_of_other_lengths_are_refused(table):
    with pytest.raises(InvalidTensor, match="column 'v', row 3: got a list of 1, expected 2, as in the first row"):
        read(table(v=[[1.0, 2.0], [3.0, 4.0], [5.0]]), Selection(("v",)))
    with pytest.raises(InvalidTensor, match="column 'v', row 2: got no value"):
        read(table(v=[[1.0, 2.0], None]), Selection(("v",), fill="0"))


def test_a_large_csv_file_is_read_in_pieces(csv, monkeypatch):
    monkeypatch.setattr(csv_table, "MAX_ROW", 1 << 18)

    def rows_of(content: bytes) -> int:
        path, rows = csv(content), 0
        with path.open("rb") as file:
            table = open_table(file, ".csv", "t")
            found = table.described([Selection(("a",)), Selection(("b",), text=True)])
            for index, piece in table.pieces(found):
                rows += len(piece) if index else 0
        return rows

    row = b"1," + b"text " * 200 + b"\n"
    # What is imported for the first file isn't measured.
    assert rows_of(b"a,b\n" + row) == 1
    content = b"a,b\n" + row * 60_000
    with PeakMemory() as memory:
        assert rows_of(content) == 60_000
    assert memory.growth < 30_000_000, "the file has 60 MB"
