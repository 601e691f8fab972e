"""Mapped columns against the reader they replace, bit for bit."""

import pickle  # to see that the map survives it; nothing foreign is loaded
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import SchemaError
from data.mapped import MappedColumns
from data.schema import Array, FileKind
from data.store import Reader, Writer

KIND = FileKind(
    "test.mapped",
    1,
    "For tests.",
    {
        "rows": Array("row* column", "float64", "1", "mapped"),
        "single": Array("row*", "float64", "1", "mapped, one number per row"),
        "narrow": Array("row* column", "float32", "1", "not mappable"),
    },
)
LENGTHS = [700, 1, 0, 5000, 311]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mapped") / "rows.h5"
    rng = np.random.default_rng(0)
    with Writer(path, KIND) as writer:
        for number, length in enumerate(LENGTHS):
            values = rng.normal(size=(length, 5))
            values[rng.random(values.shape) < 0.1] = np.nan
            narrow = values.astype(np.float32)
            writer.add(str(number), {"rows": values, "single": values[:, 0], "narrow": narrow})
    return path


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def test_the_file_has_chunks_of_which_items_need_several(file: Path) -> None:
    with h5py.File(file) as opened:
        chunk = opened["rows"].chunks[0]
        offsets = [opened["rows"].id.get_chunk_info(k).byte_offset for k in range(opened["rows"].id.get_num_chunks())]
    assert chunk < 5000
    assert any(offset % 8 for offset in offsets), "checksums shift the chunks off the boundaries of a float64"


@pytest.mark.parametrize("name", ["rows", "single"])
def test_items_are_what_the_reader_reads(file: Path, name: str) -> None:
    reader = Reader(file, KIND)
    mapped = MappedColumns(reader, name)
    for item, (first, stop) in enumerate(reader.rows(name).tolist()):
        assert stop - first == LENGTHS[item]
        assert same(mapped.read(first, stop).reshape(reader.read(item, [name])[name].shape), reader.read(item)[name])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_slice_is_what_the_reader_reads(file: Path, data: st.DataObject) -> None:
    reader = Reader(file, KIND)
    first, stop = sorted(data.draw(st.tuples(st.integers(0, 5000), st.integers(0, 5000))))
    begin = int(reader.rows("rows")[3, 0])
    expected = reader.read(3, ["rows"])["rows"][first:stop]
    assert same(MappedColumns(reader, "rows").read(begin + first, begin + stop), expected)


def test_rows_beyond_the_array_are_refused(file: Path) -> None:
    mapped = MappedColumns(Reader(file, KIND), "rows")
    with pytest.raises(IndexError, match="it holds"):
        mapped.read(0, len(mapped) + 1)


def total(mapped: MappedColumns, stop: int) -> float:
    return float(np.nansum(mapped.read(0, stop)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(file: Path, method: str) -> None:
    mapped = MappedColumns(Reader(file, KIND), "rows")
    expected = total(mapped, 700)
    with get_context(method).Pool(1) as pool:
        assert pool.apply(total, (mapped, 700)) == expected
    copied = pickle.loads(pickle.dumps(mapped))  # noqa: S301
    assert copied._bytes is None
    assert total(copied, 700) == expected


def test_a_file_replaced_meanwhile_is_noticed_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "rows.h5"

    def write(value: float) -> None:
        with Writer(path, KIND) as writer:
            writer.add("a", {"rows": np.full((9, 2), value), "single": np.ones(9), "narrow": np.ones((9, 2), "f4")})

    write(1.0)
    mapped = pickle.loads(pickle.dumps(MappedColumns(Reader(path, KIND), "rows")))  # noqa: S301
    write(2.0)
    with pytest.raises(SchemaError, match="replaced by other data"):
        mapped.read(0, 9)


def test_what_cannot_be_mapped_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="float64 in chunks"):
        MappedColumns(Reader(file, KIND), "narrow")
    path = tmp_path / "small.h5"
    with Writer(path, KIND, compression={"compression": "gzip"}) as writer:
        writer.add("a", {"rows": np.ones((9, 2)), "single": np.ones(9), "narrow": np.ones((9, 2), np.float32)})
    with pytest.raises(SchemaError, match="compression gzip"):
        MappedColumns(Reader(path, KIND), "rows")


def test_damage_is_found_by_verify_and_not_by_the_map(file: Path, tmp_path: Path) -> None:
    """Windows are cut without a look at the checksums; `Reader.verify` is where damaged values are found."""
    path = tmp_path / "damaged.h5"
    content = bytearray(file.read_bytes())
    with h5py.File(file) as opened:
        content[opened["rows"].id.get_chunk_info(0).byte_offset + 3] ^= 1
    path.write_bytes(content)
    reader = Reader(path, KIND)
    MappedColumns(reader, "rows").read(0, 10)
    with pytest.raises(SchemaError, match="cannot read"):
        reader.verify()
