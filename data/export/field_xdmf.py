"""Fields as XDMF: an XML file that describes arrays in an HDF5 file beside it.

XDMF counts x fastest and cannot say that an array is transposed, so a rectilinear mesh cannot refer into The Well's
file, whose arrays have x slowest: a companion file holds the frames as [time, z, y, x, ...]. (A curvilinear mesh could
refer to the original, at the price of three coordinates per point and of cells turned inside out.)
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO
from xml.sax.saxutils import escape, quoteattr

import h5py
import numpy as np

from data.export.field_mesh import AXES, NodeMesh


def write_companion(path: Path, mesh: NodeMesh, times: Sequence[float], frames: Iterator[np.ndarray]) -> None:
    """The arrays: /x, /y, /z and /time in float64, and each field [time, z, y, x(, 3)] in float32."""
    with h5py.File(path, "w", libver="latest") as file:
        for name, points in zip(AXES, mesh.coordinates, strict=True):
            file[name] = np.asarray(points, "<f8")
        file["time"] = np.asarray(times, "<f8")
        shapes = {name: _shape(mesh, name) for name in mesh.fields}
        written = {
            # Contiguous, without compression: what every HDF5 build reads, and turbulence hardly compresses.
            name: file.create_dataset(_dataset(name), (len(times), *shape), "<f4")
            for name, shape in shapes.items()
        }
        for k, frame in enumerate(frames):
            for name, values in mesh.arrays(frame).items():
                written[name][k] = values


def write_description(file: TextIO, companion: str, mesh: NodeMesh, times: Sequence[float]) -> None:
    """The XML: a collection of grids over time, each a slab of the arrays in the file named `companion` beside it."""
    # A plane is a mesh with one point along z. With 2DRectMesh and VXVY, VTK's reader fails on vectors.
    axes = "".join(
        f'<DataItem Dimensions="{len(along)}" NumberType="Float" Precision="8" Format="HDF">'
        f"{escape(companion)}:/{name}</DataItem>\n"
        for name, along in zip(AXES, mesh.coordinates, strict=True)
    )
    file.write(
        '<?xml version="1.0"?>\n<Xdmf Version="3.0">\n<Domain>\n'
        '<Grid Name="frames" GridType="Collection" CollectionType="Temporal">\n'
    )
    for k, time in enumerate(times):
        file.write(
            f'<Grid Name="frame" GridType="Uniform">\n<Time Value="{float(time)!r}"/>\n'
            f'<Topology TopologyType="3DRectMesh" Dimensions="{_numbers(mesh.shape)}"/>\n'
            f'<Geometry GeometryType="VXVYVZ">\n{axes}</Geometry>\n'
        )
        for name in mesh.fields:
            file.write(_attribute(name, companion, _shape(mesh, name), k, len(times)))
        file.write("</Grid>\n")
    file.write("</Grid>\n</Domain>\n</Xdmf>\n")


def _attribute(name: str, companion: str, shape: tuple[int, ...], frame: int, frames: int) -> str:
    # The slab's one frame is counted in `count` but not in Dimensions, which VTK's reader holds against the mesh's.
    start, stride, count = (frame, *(0,) * len(shape)), (1,) * (1 + len(shape)), (1, *shape)
    kind = "Vector" if len(shape) == 4 else "Scalar"
    return (
        f'<Attribute Name={quoteattr(name)} AttributeType="{kind}" Center="Node">\n'
        f'<DataItem ItemType="HyperSlab" Dimensions="{_numbers(shape)}">\n'
        f'<DataItem Dimensions="3 {len(count)}" NumberType="Int" Format="XML">'
        f"{_numbers(start)}  {_numbers(stride)}  {_numbers(count)}</DataItem>\n"
        f'<DataItem Dimensions="{_numbers((frames, *shape))}" NumberType="Float" Precision="4" Format="HDF">'
        f"{escape(companion)}:/{escape(_dataset(name))}</DataItem>\n"
        "</DataItem>\n</Attribute>\n"
    )


def _shape(mesh: NodeMesh, name: str) -> tuple[int, ...]:
    return (*mesh.shape, 3) if len(mesh.fields[name]) == 3 else mesh.shape


def _dataset(name: str) -> str:
    """Fields lie in a group of their own: one may be called x."""
    return f"fields/{name}"


def _numbers(values: Sequence[int]) -> str:
    return " ".join(str(value) for value in values)
