"""Parquet files as pyarrow writes them (and so Hugging Face's `datasets`), and their rows as JSON.

    python tools/golden/data_parquet.py crates/hone-data/tests/golden

Needs pyarrow. One file a compression; the same rows in each.
"""

import datetime
import json
import pathlib
import sys

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = [
    {
        "messages": [{"role": "user", "content": "Grüße, 世界 🌍"}, {"role": "assistant", "content": "ok"}],
        "text": "line\nline",
        "label": 3,
        "score": 0.25,
        "big": 2**63 - 1,
        "flag": True,
        "tags": ["a", None, "b"],
        "answers": {"text": ["x"], "answer_start": [7]},
        "day": datetime.date(2024, 2, 29),
        "choice": "red",
    },
    {
        "messages": [],
        "text": "",
        "label": -1,
        "score": None,
        "big": None,
        "flag": False,
        "tags": None,
        "answers": {"text": [], "answer_start": []},
        "day": None,
        "choice": "red",
    },
    {
        "messages": None,
        "text": None,
        "label": 127,
        "score": -1.5,
        "big": 0,
        "flag": None,
        "tags": [],
        "answers": None,
        "day": datetime.date(1969, 12, 31),
        "choice": "blue",
    },
]

SCHEMA = pa.schema(
    [
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("text", pa.large_string()),
        ("label", pa.int8()),
        ("score", pa.float64()),
        ("big", pa.int64()),
        ("flag", pa.bool_()),
        ("tags", pa.list_(pa.string())),
        ("answers", pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])),
        ("day", pa.date32()),
        ("choice", pa.dictionary(pa.int32(), pa.string())),
    ]
)


def main(out: pathlib.Path) -> None:
    table = pa.Table.from_pylist(ROWS, schema=SCHEMA)
    for compression in ["none", "snappy", "gzip", "zstd", "brotli", "lz4"]:
        # Two row groups, so that rows are counted across them.
        pq.write_table(table, out / f"{compression}.parquet", compression=compression, row_group_size=2)
    pq.write_table(table, out / "pages-v2.parquet", data_page_version="2.0", compression="zstd")
    text = json.dumps(ROWS, ensure_ascii=False, indent=1, default=str)
    (out / "parquet.json").write_text(text + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
