"""Fields as VTK's XML files: one rectilinear grid (.vtr) per frame, and a collection (.pvd) that gives them times.

Written here, from "VTK File Formats" (Kitware). The `vtk` package, which reads them in the tests, is 100 MB of
compiled code, meshio writes unstructured meshes only, and pyevtk wants a whole frame's arrays as we have them anyway
and writes no whole-or-nothing files: what is left for a library to do is the thirty lines below.
"""

from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from data.export.field_mesh import AXES, NodeMesh


def write_vtr(path: Path, mesh: NodeMesh, frame: np.ndarray, time: float) -> None:
    """One frame [*grid, component] as a rectilinear grid: float32 values at nodes, float64 coordinates.

    The arrays follow the XML in binary ("appended raw"), each behind its number of bytes as UInt64.
    """
    arrays = mesh.arrays(frame)
    coordinates = [np.ascontiguousarray(points, "<f8") for points in mesh.coordinates]
    blocks = [*arrays.values(), *coordinates]
    offsets = np.concatenate([[0], np.cumsum([8 + block.nbytes for block in blocks])]).tolist()
    extent = " ".join(f"0 {len(points) - 1}" for points in mesh.coordinates)

    def declared(kind: str, name: str, parts: int, offset: int) -> str:
        return (
            f'<DataArray type="{kind}" Name={quoteattr(name)} NumberOfComponents="{parts}" format="appended" '
            f'offset="{offset}"/>\n'
        )

    fields = [
        declared("Float32", name, len(mesh.fields[name]), offset) for name, offset in zip(arrays, offsets, strict=False)
    ]
    axes = [declared("Float64", name, 1, offset) for name, offset in zip(AXES, offsets[len(arrays) :], strict=False)]
    head = (
        '<?xml version="1.0"?>\n'
        '<VTKFile type="RectilinearGrid" version="1.0" byte_order="LittleEndian" header_type="UInt64">\n'
        f'<RectilinearGrid WholeExtent="{extent}">\n'
        '<FieldData><DataArray type="Float64" Name="TimeValue" NumberOfTuples="1" format="ascii">'
        f"{time!r}</DataArray></FieldData>\n"
        f'<Piece Extent="{extent}">\n'
        f"<PointData{_active(mesh)}>\n{''.join(fields)}</PointData>\n"
        f"<Coordinates>\n{''.join(axes)}</Coordinates>\n"
        '</Piece>\n</RectilinearGrid>\n<AppendedData encoding="raw">\n_'
    )
    with path.open("wb") as file:
        file.write(head.encode())
        for block in blocks:
            file.write(np.array([block.nbytes], "<u8").tobytes())
            file.write(block.tobytes())
        file.write(b"\n</AppendedData>\n</VTKFile>\n")


def pvd_lines(times: list[tuple[float, str]]) -> str:
    """The collection: the time of every frame and its file, relative to the collection's own place."""
    frames = "".join(
        f'<DataSet timestep="{time!r}" group="" part="0" file={quoteattr(name)}/>\n' for time, name in times
    )
    return (
        '<?xml version="1.0"?>\n<VTKFile type="Collection" version="0.1" byte_order="LittleEndian">\n'
        f"<Collection>\n{frames}</Collection>\n</VTKFile>\n"
    )


def _active(mesh: NodeMesh) -> str:
    """Which fields a program shows first."""
    scalars = [name for name, columns in mesh.fields.items() if len(columns) == 1]
    vectors = [name for name, columns in mesh.fields.items() if len(columns) == 3]
    return "".join(
        f" {kind}={quoteattr(names[0])}" for kind, names in (("Scalars", scalars), ("Vectors", vectors)) if names
    )
