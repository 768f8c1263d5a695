"""Types of the columns of data files, as Hugging Face's `datasets` infers them, and what lm-evaluation-harness prints of each value.

    python tools/golden/data_types.py crates/hone-eval/tests/golden/types

Needs datasets (5.2 here), pandas (3.1), pyarrow (26) and lm_eval (0.4.13). Writes the data files and `types.json`: for every case its reader,
its files by split, and for every split a row's templates rendered by the harness' own `apply_template`; of long files the last rows only.
"""

import datetime as dt
import decimal
import json
import logging
import pathlib
import sys
import tempfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lm_eval.utils import apply_template

logging.disable(logging.ERROR)
datasets.disable_progress_bars()

# Rows of a split that are kept.
LAST = 40


def lines(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)


def column(name, cells):
    return name + "\n" + "".join(cell + "\n" for cell in cells)


TIMES = ["2020-01-01", "2020-01-01T10", "2020-01-01 10:05", "2020-01-01 10:05:06", "2020-01-01T10:05:06Z"]
TIMES += ["2020-01-01 10:05:06+02:00", "2020-01-01 00:30+0200", "2020-01-01 23-01", "2020-02-29", "0001-01-01", None]
NO_TIMES = ["2020-01-01 10:05:06.5", "2020-13-01", "2020-02-30", "20-01-01", "2020-01-01 24:00", "2020-01-01Z"]
NO_TIMES += ["2020-1-01", "12:30", "2020-01-01T10:05:06 Z", "2020-01-01T10:05:06z", "2020-01-01+01:00", "2020-01-01 10:05:60", ""]
WORDS = ["-1.#IND", "1.#QNAN", "1.#IND", "-1.#QNAN", "#N/A N/A", "#N/A", "N/A", "n/a", "NA", "<NA>", "#NA", "NULL", "null"]
WORDS += ["NaN", "-NaN", "nan", "-nan", "None", "", "Null", "none", " NA", "Nan"]
FLOATS = ["0.12345678901234567", "0.1234567890123456789", "123456789.123456789", "1e-320", "3.141592653589793", "1e308"]
FLOATS += ["2.718281828459045", "0.000012345678901234567", "5e-324", "9007199254740993.0", "1.7976931348623157e308", "-0.0"]
FLOATS += ["0.30000000000000004", "1e5", "3.", ".5", "+7", "1E-7", "12345678901234567890123", "inf", "-Infinity", "", " 8.25 "]

MIXED = [
    {"n": 1, "v": 0.5, "d": "2020-01-03", "opt": "yes", "big": 10**12, "f": 1e-07, "l": [1, 2], "s": {"a": 0, "b": None}, "b": False},
    {"n": 2, "v": 1, "d": "2020-01-04", "opt": None, "big": 1, "f": 1e-05, "l": [1.5, None], "s": {"b": 2, "a": 0.25}, "b": True},
    {"n": None, "v": 3, "d": None, "big": 2**63, "f": 1e16, "l": [], "s": None, "b": None, "late": "2021-05-06T07:08Z"},
]
JSON_TYPES = [
    {"a": 1, "b": "x", "l": [1, "a"], "s": {"k": 1}, "e": "5", "t": 0.12345678901234567, "o": [{"x": 1}, {"y": "2"}], "z": {}},
    {"a": "5", "b": 2, "l": [], "s": {"k": 1, "m": "2"}, "c": True, "e": "x", "o": [], "z": {}},
    {"a": "q r", "b": True, "l": None, "s": None, "e": None, "t": 1e-12, "o": None, "z": None},
    {"a": "[1, 2.50]", "b": "false", "l": ["3", 0.1], "s": {}, "e": "y", "t": 1.0, "o": [{"x": 0.12345678915}], "z": {"q": 1}},
]
LIST = [
    {"a": 0.12345678901234567, "d": "2020-01-01", "i": 1, "n": {"k": 1.5}},
    {"a": 1, "d": "2020-01-02T10:00:00Z", "i": 2.0, "m": "x", "n": {"k": 7e-11}},
]
FIELD = [
    {"a": 0.125, "d": "2020-01-01", "date": "2020-01-01", "i": 1, "n": "5", "f": 1.0, "l": [1, 2.5], "s": {"z": 1}, "b": True},
    {"a": 1, "d": "2020-01-02", "date": "2020-01-02", "i": None, "n": "6", "m": "x", "f": 2.0, "l": [], "s": {"z": 3, "y": 2}, "b": None},
]
CSV = (
    "q,id,i,f,b,bn,e,n,s,u,w,inf,fl,us,mix\n"
    '"Is ""it"", so?",00,1,1.5,True,true,,NA,,1, 5,inf,1e5,1_0,1\n'
    "b,01,2,,FALSE,,,null,x,18446744073709551615,6 ,-Infinity,2,2,x\n"
    '"NA",02,,3,false,False,,N/A,"NA",2,7,INF,3.,3,2.0\n'
)
LABELS = "sentence,label,opt\n" + "".join(f"row {i},{i % 2},{'NA' if i % 3 == 0 else ''}\n" for i in range(6))
TRAIN = {"f": 0.5, "i": 1, "s": "a", "s2": "a", "t": "2020-01-01", "n": None, "b": True, "z": "a", "x": 1, "g": "g", "o": {"k": 0.5}}
TEST = {"f": 1, "i": 2.0, "s": 1, "s2": 12345678901.5, "t": "2020-01-01 10:00", "n": None, "b": False, "z": "2020-01-02", "g": True}
TEST |= {"o": {"k": 1}}

# Name, reader, files by split, more arguments, templates besides the columns.
CASES = [
    ("json_types", "json", {"test": {"types.jsonl": lines(*MIXED)}}, {}, ["{{v / 3}}", "{{'%.3f'|format(f * 1e6)}}", "{{s.a if s else 'none'}}", "{{v == 1}}", "{{late if late else n}}"]),
    ("json_times", "json", {"test": {"times.jsonl": lines(*[{"t": t, "inside": {"t": t}} for t in TIMES])}}, {}, []),
    ("json_no_times", "json", {"test": {"no_times.jsonl": lines(*[{f"c{i}": t} for i, t in enumerate(NO_TIMES)])}}, {}, []),
    ("json_mixed", "json", {"test": {"mixed.jsonl": lines(*JSON_TYPES)}}, {}, []),
    ("json_numbers", "json", {"test": {"numbers.jsonl": lines('{"i": 9223372036854775807, "f": 9223372036854775808, "e": 1e5, "z": -0.0}')}}, {}, []),
    ("json_list", "json", {"test": {"list.json": json.dumps(LIST, indent=1)}}, {}, ["{{n.k}}"]),
    ("json_field", "json", {"test": {"field.json": json.dumps({"version": 1, "data": FIELD})}}, {"field": "data"}, []),
    ("json_splits", "json", {"train": {"train.jsonl": lines(TRAIN)}, "test": {"test.jsonl": lines(TEST)}}, {}, []),
    (
        "json_files",
        "json",
        {"test": {"one.jsonl": lines({"a": 0.5, "b": "x", "c": 1}), "two.jsonl": lines({"a": 1, "b": 2}, {"a": 2, "b": None})}},
        {},
        [],
    ),
    ("csv_types", "csv", {"test": {"types.csv": CSV}}, {}, ["{{i + 1 if i is not none else 'none'}}"]),
    ("csv_labels", "csv", {"test": {"labels.csv": LABELS}}, {}, ["{{['no', 'yes'][label]}}"]),
    ("csv_missing", "csv", {"test": {"missing.csv": column("w,k", [f"{word},x" for word in WORDS])}}, {}, []),
    ("csv_floats", "csv", {"test": {"floats.csv": column("f,k", [f"{number},x" for number in FLOATS])}}, {}, []),
    ("csv_chunks", "csv", {"test": {"chunks.csv": column("i", ["1"] * 10000 + ["NA", "2", "3.0"])}}, {}, []),
    (
        "csv_splits",
        "csv",
        {"train": {"train.csv": "f,i,s,b,n\n0.5,1,a,True,\n"}, "test": {"test.csv": "f,i,s,b,n\n1,2,00,True,\n2,,3,False,\n"}},
        {},
        [],
    ),
]


def parquet():
    D, at = decimal.Decimal, dt.datetime(2020, 1, 1, 10, 5, 6, 7)
    day = dt.datetime(2020, 1, 1)
    return pa.table(
        {
            "s": pa.array([day, dt.datetime(1960, 1, 1, 1, 2, 3), None], pa.timestamp("s")),
            "ms": pa.array([day, dt.datetime(2020, 1, 1, 1, 2, 3, 4000), None], pa.timestamp("ms")),
            "us": pa.array([at, dt.datetime(1, 1, 1), None], pa.timestamp("us")),
            "ns": pa.array([1577836800000000001, 1577836800000001000, -1], pa.timestamp("ns")),
            "utc": pa.array([at, None, day], pa.timestamp("us", "UTC")),
            "nsutc": pa.array([1577836800000000001, None, -1], pa.timestamp("ns", "UTC")),
            "date": pa.array([dt.date(2020, 2, 29), None, dt.date(1, 1, 1)]),
            "date64": pa.array([dt.date(2020, 1, 1), None, dt.date(1969, 1, 1)], pa.date64()),
            "tms": pa.array([dt.time(1, 2, 3, 4000), None, dt.time(0)], pa.time32("ms")),
            "tus": pa.array([dt.time(1, 2, 3, 4), None, dt.time(0)], pa.time64("us")),
            "tns": pa.array([1000, None, 0], pa.time64("ns")),
            "dec": pa.array([D("1.50"), None, D("-0.01")], pa.decimal128(5, 2)),
            "dec10": pa.array([D("0"), D("0.0000000001"), D("-123.5")], pa.decimal128(20, 10)),
            "dec256": pa.array([D("123456789012345678901234567890123456789012345.25"), None, D("-1")], pa.decimal256(60, 2)),
            "bin": pa.array([b"a'\x00\n\xff\\", None, b"a\"'"]),
            "fixed": pa.array([b"ab", None, b"\xc3\xa9"], pa.binary(2)),
            "f16": pa.array(np.array([0.1, 1.5, np.nan], dtype=np.float16)),
            "f32": pa.array([0.1, None, float("nan")], pa.float32()),
            "f64": pa.array([1.0, None, float("-inf")]),
            "i": pa.array([1, None, 2]),
            "u64": pa.array([2**64 - 1, None, 1], pa.uint64()),
            "i8": pa.array([-1, None, 1], pa.int8()),
            "u32": pa.array([2**32 - 1, None, 1], pa.uint32()),
            "nothing": pa.array([None, None, None]),
            "truth": pa.array([True, None, False]),
            "times": pa.array([[at, None], None, []], pa.list_(pa.timestamp("us"))),
            "inner": pa.array([{"t": at, "d": D("1.0")}, None, {"t": None, "d": None}], pa.struct([("t", pa.timestamp("us")), ("d", pa.decimal128(5, 1))])),
            "plain": pa.array([{"a": 1, "b": [1.0, None]}, None, {"a": None, "b": None}]),
            "texts": pa.array(["x", None, ""], pa.large_string()),
            "category": pa.array(["x", None, "y"]).dictionary_encode(),
        }
    )


# Values inside lists and objects are printed one by one: a whole list of times prints otherwise in Python.
INSIDE = {"inside": "{{inside.t}}", "times": "{{times[0] if times else 'none'}}", "inner": "{{inner.t ~ ' ' ~ inner.d if inner else 'none'}}"}


def rendered(rows, templates):
    return [{template: apply_template(template, row) for template in templates} for row in rows]


def answers(reader, data_files, kwargs, more):
    with tempfile.TemporaryDirectory() as cache:
        loaded = datasets.load_dataset(reader, data_files=data_files, cache_dir=cache, **kwargs)
        splits = {}
        for split, rows in loaded.items():
            columns = [INSIDE.get(name, "{{%s}}" % name) for name in rows.column_names]
            of = range(max(0, len(rows) - LAST), len(rows))
            templates = columns + (more if split == "test" else [])
            splits[split] = {"count": len(rows), "last": rendered([rows[i] for i in of], templates)}
        return splits


def main(out):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    cases = {}
    for name, reader, splits, kwargs, more in CASES:
        (out / name).mkdir(exist_ok=True)
        data_files = {}
        for split, files in splits.items():
            for file, text in files.items():
                (out / name / file).write_text(text)
            data_files[split] = [f"{name}/{file}" for file in files]
        paths = {split: [str(out / file) for file in files] for split, files in data_files.items()}
        cases[name] = {"reader": reader, "data_files": data_files, "kwargs": kwargs, "splits": answers(reader, paths, kwargs, more)}
    (out / "parquet").mkdir(exist_ok=True)
    pq.write_table(parquet(), out / "parquet/types.parquet")
    paths = {"test": [str(out / "parquet/types.parquet")]}
    data_files = {"test": ["parquet/types.parquet"]}
    cases["parquet"] = {"reader": "parquet", "data_files": data_files, "kwargs": {}, "splits": answers("parquet", paths, {}, [])}
    found = {"datasets": datasets.__version__, "pyarrow": pa.__version__, "cases": cases}
    (out / "types.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


main(sys.argv[1])
