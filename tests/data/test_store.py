"""The store: round trips, fingerprints, processes, and files made to mislead."""

import errno
import os
import pickle  # to see that readers survive it; nothing foreign is loaded
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.atomic import DiskFullError
from data.errors import PenstockError, SchemaError
from data.schema import Array, Attribute, FileKind
from data.store import Reader, Writer, chunk_shape

KIND = FileKind(
    "test.store",
    2,
    "For tests.",
    {
        "points": Array("point* xyz=3", "float32", "cube", "positions"),
        "inside": Array("point*", "bool", "1", "of each point"),
        "faces": Array("face* 3", "int64", "1", "corners"),
        "latent": Array("token channel", "float64", "1", "tokens"),
        "label": Array("", "int32", "1", "class"),
        "treatment": Array("", "str", "1", "what was done"),
        "extra": Array("token", "uint8", "1", "optional", optional=True),
    },
    {"scale": Attribute("float64", "a factor"), "source": Attribute("str", "where from")},
)
ATTRIBUTES = {"scale": 0.25, "source": "tests"}
Item = dict[str, Any]


def item(seed: int, points: int | None = None, extra: bool = False) -> Item:
    rng = np.random.default_rng(seed)
    points = int(rng.integers(0, 3000)) if points is None else points
    arrays: Item = {
        "points": rng.normal(size=(points, 3)).astype(np.float32),
        "inside": rng.random(points) < 0.5,
        "faces": rng.integers(0, 99, (2 * points + 1, 3)),
        "latent": rng.normal(size=(4, 8)),
        "label": np.int32(seed),
        "treatment": ["as-is", "repariert ü", ""][seed % 3],
    }
    return {**arrays, "extra": rng.integers(0, 9, 4).astype(np.uint8)} if extra else arrays


def write(path: Path, items: dict[str, Item], **options: Any) -> Path:
    with Writer(path, KIND, ATTRIBUTES, **options) as writer:
        for item_id, arrays in items.items():
            writer.add(item_id, arrays)
    return path


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return write(tmp_path / "samples.h5", {f"item-{i}": item(i) for i in range(20)})


def assert_same(found: Item, expected: Item) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name
        assert found[name].dtype.kind == np.asarray(value).dtype.kind


class TestRoundTrip:
    def test_of_items_attributes_and_ids(self, stored: Path) -> None:
        reader = Reader(stored, KIND)
        assert reader.ids == tuple(f"item-{i}" for i in range(20))
        assert reader.attributes == ATTRIBUTES
        for i in reversed(range(20)):
            assert_same(reader.read(i), item(i))
        assert_same(reader.read(-1), item(19))
        reader.verify()

    @settings(max_examples=20, deadline=None)
    @given(
        sizes=st.dictionaries(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=5),
            st.integers(0, 400),
            min_size=1,
            max_size=20,
        ),
        extra=st.booleans(),
    )
    def test_of_any_sizes_and_names(
        self, tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, int], extra: bool
    ) -> None:
        items = {name: item(points, points, extra) for name, points in sizes.items()}
        reader = Reader(write(tmp_path_factory.mktemp("any") / "samples.h5", items), KIND)
        assert reader.ids == tuple(items)
        for i, arrays in enumerate(items.values()):
            assert_same(reader.read(i), arrays)
        reader.verify()

    @pytest.mark.parametrize("text", ["", "ü", "x" * 200_000])
    def test_of_attributes_of_any_length(self, tmp_path: Path, text: str) -> None:
        with Writer(tmp_path / "a.h5", KIND, {"scale": -0.0, "source": text}) as writer:
            writer.add("a", item(0))
        assert Reader(tmp_path / "a.h5", KIND).attributes == {"scale": -0.0, "source": text}

    def test_of_chosen_arrays_reads_only_those(self, stored: Path) -> None:
        assert set(Reader(stored, KIND).read(3, ["label", "points"])) == {"label", "points"}
        with pytest.raises(SchemaError, match="holds no array 'colour'"):
            Reader(stored, KIND).read(3, ["colour"])
        with pytest.raises(IndexError):
            Reader(stored, KIND).read(20)


class TestLayout:
    def test_items_share_no_chunk_checksums_are_everywhere(self, tmp_path: Path) -> None:
        path = write(tmp_path / "samples.h5", {str(i): item(i, 20_000 + 999 * i) for i in range(5)})
        with h5py.File(path) as file:
            starts = file["spans/point"][:, 0]
            assert np.all(starts % file["points"].chunks[0] == 0)
            assert np.all(starts % file["inside"].chunks[0] == 0)
            names: list[str] = []
            file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
            assert len(names) == 9
            assert all(file[name].fletcher32 for name in names)

    @pytest.mark.parametrize(
        ("shape", "itemsize", "chunk"),
        [
            ((2048, 64), 4, (1, 2048, 64)),  # an item of 512 KiB: a chunk of its own
            ((), 4, (4096,)),  # labels: 16 KiB of them
            ((4096, 4096), 4, (1, 512, 4096)),  # 64 MiB: cut to 8 MiB
            ((3, 0), 4, (4096, 3, 1)),
        ],
    )
    def test_chunk_follows_the_item(self, shape: tuple[int, ...], itemsize: int, chunk: tuple[int, ...]) -> None:
        found = chunk_shape(shape, itemsize)
        assert found == chunk or (0 in shape and found[1:] == chunk[1:])

    def test_an_item_larger_than_a_chunk_comes_back(self, tmp_path: Path) -> None:
        kind = FileKind("test.large", 1, "", {"state": Array("x y", "float32", "1", "")})
        state = np.random.default_rng(0).normal(size=(2200, 1500)).astype(np.float32)
        with Writer(tmp_path / "large.h5", kind) as writer:
            writer.add("a", {"state": state})
        assert np.array_equal(Reader(tmp_path / "large.h5", kind).read(0)["state"], state)


class TestFingerprint:
    def test_does_not_depend_on_compression(self, tmp_path: Path) -> None:
        items = {str(i): item(i) for i in range(3)}
        filters: list[dict[str, Any] | None] = [
            {},
            None,
            {"compression": "lzf"},
            {"compression": "gzip", "compression_opts": 4},
        ]
        prints = {
            Reader(write(tmp_path / f"{i}.h5", items, compression=f), KIND).fingerprint for i, f in enumerate(filters)
        }
        assert len(prints) == 1

    @pytest.mark.parametrize("what", ["id", "value", "order", "attribute", "string"])
    def test_changes_with_everything_stored(self, tmp_path: Path, what: str) -> None:
        items = {str(i): item(i) for i in range(3)}
        attributes = dict(ATTRIBUTES)
        before = Reader(write(tmp_path / "before.h5", items), KIND).fingerprint
        if what == "id":
            items["3"] = items.pop("2")
        elif what == "value":
            items["1"]["points"][7, 1] = np.nextafter(items["1"]["points"][7, 1], np.float32(9))
        elif what == "order":
            items = {name: items[name] for name in ("1", "0", "2")}
        elif what == "attribute":
            attributes["scale"] = 0.5
        else:
            items["1"]["treatment"] = "other"
        with Writer(tmp_path / "after.h5", KIND, attributes) as writer:
            for item_id, arrays in items.items():
                writer.add(item_id, arrays)
        assert writer.fingerprint != before

    def test_a_value_changed_afterwards_is_found(self, stored: Path) -> None:
        """Through HDF5 itself, so that every checksum in the file is right again."""
        with h5py.File(stored, "r+") as file:
            file["points"][5, 0] += 1
        with pytest.raises(SchemaError, match="was changed"):
            Reader(stored, KIND).verify()


class TestWriting:
    def test_that_fails_leaves_the_old_file_and_nothing_else(self, stored: Path) -> None:
        before = stored.read_bytes()
        with pytest.raises(KeyError), Writer(stored, KIND, ATTRIBUTES) as writer:
            writer.add("a", item(0))
            raise KeyError("anything")
        assert stored.read_bytes() == before
        assert list(stored.parent.iterdir()) == [stored]

    @pytest.mark.parametrize("attributes", [{}, {**ATTRIBUTES, "other": 1}])
    def test_without_the_right_attributes_is_refused(self, tmp_path: Path, attributes: dict[str, Any]) -> None:
        with pytest.raises(SchemaError), Writer(tmp_path / "a.h5", KIND, attributes) as writer:
            writer.add("a", item(0))
        assert not list(tmp_path.iterdir())

    def test_attributes_may_be_completed_until_the_end(self, tmp_path: Path) -> None:
        with Writer(tmp_path / "a.h5", KIND, {"source": "x"}) as writer:
            writer.add("a", item(0))
            writer.attributes["scale"] = 2.0
        assert Reader(tmp_path / "a.h5", KIND).attributes == {"source": "x", "scale": 2.0}

    def test_nothing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(PenstockError, match="nothing to write"), Writer(tmp_path / "a.h5", KIND, ATTRIBUTES):
            pass
        assert not list(tmp_path.iterdir())

    def test_the_same_id_twice_or_changing_arrays_are_refused(self, tmp_path: Path) -> None:
        with Writer(tmp_path / "a.h5", KIND, ATTRIBUTES) as writer:
            writer.add("a", item(0))
            with pytest.raises(SchemaError, match="ids are unique"):
                writer.add("a", item(1))
            with pytest.raises(SchemaError, match="every item of a file or in none"):
                writer.add("b", item(1, extra=True))
            writer.add("b", item(1))
        assert Reader(tmp_path / "a.h5", KIND).ids == ("a", "b")
        Reader(tmp_path / "a.h5", KIND).verify()

    def test_on_a_full_disk_says_so_and_keeps_the_old_file(self, small_disk: Path) -> None:
        old = write(small_disk / "samples.h5", {"a": item(0, 50)})
        before = old.read_bytes()
        with pytest.raises(DiskFullError, match="disk full"):
            write(old, {str(i): item(i, 3000) for i in range(100)})
        assert old.read_bytes() == before
        assert list(small_disk.iterdir()) == [old]

    @pytest.mark.parametrize("calls", [0, 1, 10])
    def test_on_a_full_disk_at_any_item(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
        left = [calls]
        real = os.posix_fallocate

        def full(*arguments: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(*arguments)

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(DiskFullError):
            write(tmp_path / "a.h5", {str(i): item(i) for i in range(30)})
        assert not list(tmp_path.iterdir())

    def test_killed_leaves_no_file_and_the_next_writer_clears_up(self, tmp_path: Path) -> None:
        child = os.fork()
        if child == 0:
            with Writer(tmp_path / "samples.h5", KIND, ATTRIBUTES) as writer:
                for i in range(10**9):
                    writer.add(str(i), item(i % 7))
        while sum(file.stat().st_size for file in tmp_path.iterdir()) < 2_000_000:
            time.sleep(0.01)
        assert len(list(tmp_path.iterdir())) == 1
        write(tmp_path / "samples.h5", {"a": item(0)})
        assert len(list(tmp_path.iterdir())) == 2, "the temporary file of a living writer was taken away"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        write(tmp_path / "samples.h5", {"a": item(0)})
        assert [file.name for file in tmp_path.iterdir()] == ["samples.h5"]

    def test_into_a_folder_that_is_a_file_is_one_clear_error(self, tmp_path: Path) -> None:
        (tmp_path / "folder").touch()
        with pytest.raises(PenstockError, match="cannot write"):
            write(tmp_path / "folder" / "a.h5", {"a": item(0)})


def read_sums(reader: Reader, worker: int) -> list[float]:
    return [float(reader.read(i)["points"].sum()) for i in np.random.default_rng(worker).permutation(len(reader))]


class TestProcesses:
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_a_reader_already_in_use_is_shared_with_worker_processes(self, stored: Path, method: str) -> None:
        reader = Reader(stored, KIND)
        reader.read(0)
        expected = [sorted(read_sums(reader, 0))] * 4
        with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
            assert [sorted(sums) for sums in pool.map(read_sums, [reader] * 4, range(4))] == expected

    def test_a_handle_inherited_by_fork_is_not_used(self, stored: Path) -> None:
        """The child opens its own, and what it does with it leaves the parent's alone."""
        reader = Reader(stored, KIND)
        assert reader._file is None, "opened before anything was read"
        reader.read(0)
        inherited = reader._file
        child = os.fork()
        if child == 0:
            good = np.array_equal(reader.read(1)["points"], item(1)["points"]) and reader._file is not inherited
            reader.close()
            os._exit(0 if good else 1)
        for i in range(20):
            assert_same(reader.read(i), item(i))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert_same(reader.read(2), item(2))

    def test_pickling_leaves_the_handle_behind(self, stored: Path) -> None:
        reader = Reader(stored, KIND)
        reader.read(0)
        copy = pickle.loads(pickle.dumps(reader))  # noqa: S301 - made a line above
        assert copy._file is None
        assert_same(copy.read(3), item(3))

    def test_a_file_replaced_in_between_is_noticed(self, stored: Path) -> None:
        reader = Reader(stored, KIND)
        write(stored, {"other": item(3)})
        with pytest.raises(SchemaError, match="was replaced by other data"):
            reader.read(0)


def external_link(file: h5py.File, other: Path) -> None:
    del file["label"]
    file["label"] = h5py.ExternalLink(str(other), "label")


def soft_link(file: h5py.File, other: Path) -> None:
    del file["label"]
    file["label"] = h5py.SoftLink("/faces")


def linked_group(file: h5py.File, other: Path) -> None:
    del file["spans"]
    file["spans"] = h5py.ExternalLink(str(other), "spans")


def virtual_outside(file: h5py.File, other: Path) -> None:
    del file["label"]
    layout = h5py.VirtualLayout((20,), "<i4")
    layout[:] = h5py.VirtualSource(str(other), "label", (20,))
    file.create_virtual_dataset("label", layout)


def external_storage(file: h5py.File, other: Path) -> None:
    del file["label"]
    file.create_dataset("label", (20,), "<i4", external=[(str(other), 0, 80)])


def foreign_filter(file: h5py.File, other: Path) -> None:
    """Filter 32001 (blosc) marked optional: HDF5 stores the dataset though it has no such plug-in."""
    del file["label"]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((20,))
    plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (0, 0, 0, 0))
    plist.set_fletcher32()
    space = h5py.h5s.create_simple((20,))
    h5py.h5d.create(file.id, b"label", h5py.h5t.STD_I32LE, space, plist)
    file["label"][...] = 1


def no_checksum(file: h5py.File, other: Path) -> None:
    values = file["label"][()]
    del file["label"]
    file.create_dataset("label", data=values, chunks=(20,))


def unwritten(file: h5py.File, other: Path) -> None:
    del file["latent"]
    file.create_dataset("latent", (20, 4, 2**40), "<f8", chunks=(1, 4, 64), fletcher32=True)


def huge_chunk(file: h5py.File, other: Path) -> None:
    del file["label"]
    file.create_dataset("label", (20,), "<i4", chunks=(2**28,), maxshape=(None,), fletcher32=True)


def missing_array(file: h5py.File, other: Path) -> None:
    del file["points"]


def extra_array(file: h5py.File, other: Path) -> None:
    file.create_dataset("colour", data=np.zeros(3), chunks=(3,), fletcher32=True)


def extra_group(file: h5py.File, other: Path) -> None:
    del file["label"]
    file["label"] = file["/"]


def other_dtype(file: h5py.File, other: Path) -> None:
    del file["label"]
    file.create_dataset("label", data=np.zeros(20, "<i8"), chunks=(20,), fletcher32=True)


def other_length(file: h5py.File, other: Path) -> None:
    file["label"].resize((19,))


def swapped_spans(file: h5py.File, other: Path) -> None:
    file["spans/point"][...] = file["spans/point"][()][::-1]


def other_version(file: h5py.File, other: Path) -> None:
    file.attrs["version"] = 1


def other_kind(file: h5py.File, other: Path) -> None:
    file.attrs["kind"] = "protein.samples"


def extra_attribute(file: h5py.File, other: Path) -> None:
    file.attrs["note"] = "hello"


def equal_ids(file: h5py.File, other: Path) -> None:
    file["ids"][1] = file["ids"][0]


class TestHostileFiles:
    @pytest.mark.parametrize(
        ("attack", "message"),
        [
            (external_link, "'label' is an external link"),
            (linked_group, "'spans' is an external link"),
            (soft_link, "'label' is a soft link"),
            (virtual_outside, "'label' is a virtual dataset"),
            (external_storage, "'label' has external storage"),
            (foreign_filter, "'label' uses HDF5 filter 32001"),
            (no_checksum, "'label' has no Fletcher-32 checksum"),
            (unwritten, "'latent' holds 0 of its"),
            (huge_chunk, "'label' has chunks"),
            (missing_array, r"missing=\['points'\]"),
            (extra_array, r"unknown=\['colour'\]"),
            (extra_group, r"groups=\['label', 'spans'\]"),
            (other_dtype, "'label' has dtype int64, expected int32"),
            (other_length, "'label' has 19 rows, expected 20"),
            (swapped_spans, "not a list of rows in growing order"),
            (other_version, "expected kind 'test.store' version 2, got kind 'test.store' version 1"),
            (other_kind, "got kind 'protein.samples'"),
            (extra_attribute, r"unknown=\['note'\]"),
            (equal_ids, "not unique"),
        ],
        ids=lambda value: value.__name__ if callable(value) else "",
    )
    def test_is_refused_on_opening_and_left_untouched(
        self, stored: Path, tmp_path: Path, attack: Any, message: str
    ) -> None:
        other = tmp_path / "other.h5"
        shutil.copy(stored, other)
        with h5py.File(stored, "r+") as file:
            attack(file, other)
        before = stored.read_bytes()
        with pytest.raises(SchemaError, match=message) as refusal:
            Reader(stored, KIND)
        assert str(stored) in str(refusal.value)
        assert stored.read_bytes() == before

    @pytest.mark.parametrize("content", [b"", b"solid text\n", b"\x89HDF\r\n\x1a\n" + bytes(100)])
    def test_what_is_not_hdf5_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "samples.h5"
        path.write_bytes(content)
        with pytest.raises(SchemaError, match="prepare it again"):
            Reader(path, KIND)

    def test_nothing_and_a_folder_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SchemaError, match="found nothing"):
            Reader(tmp_path / "absent.h5", KIND)
        with pytest.raises(SchemaError, match="found a folder"):
            Reader(tmp_path, KIND)

    @pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.999])
    def test_a_truncated_file_is_refused(self, stored: Path, share: float) -> None:
        os.truncate(stored, int(stored.stat().st_size * share))
        with pytest.raises(SchemaError, match="truncated"):
            Reader(stored, KIND)

    def test_a_flipped_bit_anywhere_is_found_or_changes_no_value(self, tmp_path: Path) -> None:
        """In a process of its own: a damaged file must not bring HDF5 down either."""
        path = write(tmp_path / "samples.h5", {str(i): item(i, 200) for i in range(3)})
        done = subprocess.run(
            [sys.executable, "-c", FLIP_BITS, str(path)],
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        refused, harmless = map(int, done.stdout.split())
        assert refused > 3 * harmless, "flips are expected in data mostly, little of the file is unused"


FLIP_BITS = """
import sys
from pathlib import Path
import numpy as np
from data.errors import SchemaError
from data.store import Reader
from tests.data.test_store import KIND, assert_same, item
path = Path(sys.argv[1])
whole = path.read_bytes()
rng = np.random.default_rng(0)
refused = harmless = 0
for position in rng.permutation(len(whole))[:300]:
    content = bytearray(whole)
    content[position] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    try:
        reader = Reader(path, KIND)
        reader.verify()
        for i in range(3):
            assert_same(reader.read(i), item(i, 200))
        reader.close()
        harmless += 1
    except SchemaError:
        refused += 1
print(refused, harmless)
"""
