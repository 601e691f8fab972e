"""The report is one file that opens anywhere, shows everything, and lets nothing of a user's run in."""

import base64
import errno
import html
import json
import re
import shutil
import subprocess
import time
import zlib
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import trimesh

from data.atomic import DiskFullError
from data.batch import TriangleMesh
from data.errors import MeshError
from flows import report as page
from flows.report import (
    Command,
    Curve,
    Duration,
    Durations,
    Figure,
    Figures,
    Headline,
    KeyValues,
    LossCurves,
    Mesh,
    MeshGallery,
    MeshItem,
    Point,
    Report,
    Source,
    Table,
    Text,
    report_of_run,
    write_report,
)
from flows.reporting import charts, geometry, words
from flows.reporting.page import render
from flows.reporting.run_folder import losses

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&lt;{{ 7*7 }}\x00\udcff"
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def as_triangles(mesh: trimesh.Trimesh) -> TriangleMesh:
    return TriangleMesh(np.asarray(mesh.vertices, float), np.asarray(mesh.faces))


TORUS = as_triangles(trimesh.creation.torus(0.6, 0.2))
BALL = as_triangles(trimesh.creation.icosphere(subdivisions=3, radius=0.7))


def gallery(word: str = "torus", count: int = 1) -> MeshGallery:
    pair = (Mesh(mesh=TORUS, label=f"truth {word}", reference=True), Mesh(mesh=BALL, label="made"))
    items = [MeshItem(caption=word, meshes=pair, note=word, file=f"exports/{word}.glb")] * count
    return MeshGallery(title=f"Shapes {word}", items=items, note=word)


def everything(word: str = "plain") -> Report:
    """A report with a section of each kind in which every text is `word`."""
    points = [Point(step, 1 / (1 + step)) for step in range(400)]
    return Report(
        run=word,
        domain=word,
        date=datetime(2026, 11, 20, 20, 46, tzinfo=UTC),
        seconds=372,
        summary=word,
        headlines=[Headline(label=word, value=0.925, unit=word, note=word)],
        sections=[
            LossCurves(curves=[Curve(stage=word, name=f"{split}/{word}", points=points) for split in ("train", "val")]),
            Table(title=f"Numbers {word}", columns=[word, "floor"], rows=[[word, 0.5], [word, None]], note=word),
            gallery(word),
            Figures(title=f"Pictures {word}", figures=[Figure(image=f"<svg>{word}</svg>", caption=word, alt=word)]),
            KeyValues(title=f"Facts {word}", groups={word: {word: word, "flag": True}}),
            Durations(steps=[Duration(name=word, seconds=3.0, state=word), Duration(name="other", seconds=0.0)]),
            Source(title=f"Source {word}", text=f"key: {word}\n# {word}", language="yaml", summary=word),
            Source(title="Log", text=word),
            Command(command=word, note=word),
            Text(title=f"Prose {word}", paragraphs=[word, word]),
        ],
    )


class Elements(HTMLParser):
    """Tags with attributes, text outside scripts and styles, and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
            if tag == "script":
                self.scripts.append("")

    def handle_startendtag(self, tag, attributes):  # <circle/> and its kin inside SVG
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif not self.open or self.open[-1] != "style":
            if self.open[-1:] == ["h2"]:
                self.headings.append(data)
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_every_section_is_there_in_order_and_the_markup_is_closed():
    found = Elements(render(everything()))
    assert not found.open
    titles = ["Training curves", "Numbers plain", "Shapes plain", "Pictures plain", "Facts plain", "How long",
              "Source plain", "Log", "Make it again", "Prose plain"]  # fmt: skip
    assert found.headings == titles
    identifiers = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    anchors = {a["href"] for a in found.named("a") if (a["href"] or "").startswith("#")}
    assert anchors == {f"#{a['id']}" for a in found.named("section")}
    for text in ("20 November 2026, 20:46 UTC", "6 min 12 s", "0.925"):
        assert text in found.text


def test_nothing_is_loaded_from_anywhere():
    """No address leads out of the file, and a policy in the file forbids the browser to follow one."""
    text = render(everything())
    found = Elements(text)
    loading = ("src", "srcset", "action", "poster", "data", "background", "formaction", "xlink:href")
    for tag, attributes in found.tags:
        for name in loading:
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        if tag == "link":
            assert attributes["href"] == "data:,"
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.S)
    assert "url(" not in style and "@import" not in style
    (policy,) = [m["content"] for m in found.named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src" not in policy
    # The one address in the page is the name that HTML itself goes by, in three.js.
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) <= {"http://www.w3.org/1999/xhtml"}


def test_hostile_names_stay_text():
    """A name that tries to close a script, an attribute or a template ends up as the characters it consists of."""
    text = render(everything(HOSTILE))
    found, plain = Elements(text), Elements(render(everything()))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attributes) for _, attributes in found.tags] == [sorted(attributes) for _, attributes in plain.tags]
    assert found.scripts == plain.scripts
    as_shown = HOSTILE.replace("\x00", "\N{REPLACEMENT CHARACTER}").replace("\udcff", "\N{REPLACEMENT CHARACTER}")
    assert found.text.count(as_shown) >= 15
    assert "49" not in html.unescape(text).split("<title>")[1].split("</title>")[0]
    text.encode("utf-8")


def test_a_file_name_cannot_become_a_script_address():
    item = MeshItem(caption="x", meshes=[Mesh(mesh=BALL)], file="javascript:alert(1)")
    found = Elements(render(Report(run="r", domain="d", sections=[MeshGallery(title="t", items=[item])])))
    assert "./javascript%3Aalert%281%29" in {a["href"] for a in found.named("a")}


def test_only_the_page_s_own_scripts_may_run():
    """The policy names each script by its digest, so that even a flaw in escaping could run nothing."""
    import hashlib

    found = Elements(render(everything()))
    (policy,) = [m["content"] for m in found.named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    kinds = [a.get("type") for a in found.named("script")]
    runnable = [text for text, kind in zip(found.scripts, kinds, strict=True) if kind is None]
    digests = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in runnable}
    assert set(re.findall(r"'sha256-([^']+)'", policy or "")) == digests
    assert "unsafe-inline" not in (policy or "").split("script-src")[1].split(";")[0]


def test_the_licence_travels_with_the_viewer_and_both_only_with_meshes():
    assert "Permission is hereby granted" in render(everything())
    without = render(Report(run="r", domain="d", sections=[Text(title="t", paragraphs=["p"])]))
    assert "Permission is hereby granted" not in without
    assert len(without) < 60_000


def test_a_dense_mesh_costs_less_than_seventy_kilobytes():
    dense = as_triangles(trimesh.creation.icosphere(subdivisions=5))
    items = [MeshItem(caption=str(k), meshes=[Mesh(mesh=dense)]) for k in range(3)]
    without = render(Report(run="r", domain="d", sections=[gallery()]))
    text = render(Report(run="r", domain="d", sections=[MeshGallery(title="t", items=items)]))
    assert len(without) < 700_000
    assert len(text) < len(without) + 3 * 70_000


def unpack(data: str) -> TriangleMesh:
    """What the script in the page does, written from the description in `geometry.Preview`."""
    raw = zlib.decompress(base64.b64decode(data))
    vertices, faces, _ = np.frombuffer(raw, "<i4", 3)
    *low, step = np.frombuffer(raw, "<f4", 4, 12)

    def rows(offset: int, count: int, dtype: type) -> np.ndarray:
        width = np.dtype(dtype).itemsize
        planes = np.frombuffer(raw, np.uint8, 3 * count * width, offset).reshape(width, 3, count)
        columns = sum(planes[k].astype(np.uint64) << np.uint64(8 * k) for k in range(width))
        return np.cumsum(columns.astype(dtype), axis=1, dtype=dtype).T

    positions = rows(28, vertices, np.uint16)
    return TriangleMesh(np.array(low) + step * positions, rows(28 + 6 * vertices, faces, np.uint32).astype(np.int64))


@pytest.mark.parametrize("mesh", [TORUS, BALL], ids=["torus", "ball"])
def test_a_preview_holds_the_same_surface(mesh):
    """Unpacked, a mesh below the limit has the same triangles up to quantisation: same area, volume, bounds."""
    preview = geometry.encode(mesh)
    back = trimesh.Trimesh(*vars(unpack(preview.data)).values(), process=False)
    truth = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert preview.shown_faces == preview.faces == len(mesh.faces)
    assert back.is_watertight
    assert back.volume == pytest.approx(truth.volume, rel=1e-4)
    assert back.area == pytest.approx(truth.area, rel=1e-4)
    np.testing.assert_allclose(back.bounds, truth.bounds, atol=2e-5)


def test_decimation_keeps_the_shape():
    """A unit sphere of 20 480 triangles, with 4 000 left, is still within half a percent of its volume and radius."""
    dense = as_triangles(trimesh.creation.icosphere(subdivisions=5))
    small = geometry.decimate(dense, 4000)
    assert len(small.faces) <= 4000
    assert np.abs(np.linalg.norm(small.vertices, axis=1) - 1).max() < 5e-3
    assert trimesh.Trimesh(small.vertices, small.faces).volume == pytest.approx(4 / 3 * np.pi, rel=5e-3)


def test_odd_meshes_do_not_stop_the_page():
    """Diverged, empty and non-manifold meshes are shown as far as they can be."""
    broken = BALL.vertices.copy()
    broken[::7] = np.nan
    fan = np.array([[0, 1, k] for k in range(2, 3000)])
    fan_vertices = np.random.default_rng(0).normal(size=(3000, 3))
    odd = [
        TriangleMesh(broken, BALL.faces),
        TriangleMesh(np.zeros((0, 3)), np.zeros((0, 3), int)),
        TriangleMesh(np.zeros((3, 3)), np.array([[0, 1, 2]])),
        TriangleMesh(fan_vertices, fan),
    ]
    for mesh in odd:
        assert np.isfinite(unpack(geometry.encode(mesh, faces=500).data).vertices).all()
        assert geometry.encode(mesh, faces=500).shown_faces <= 1000


def test_glb_bytes_are_shown_like_meshes():
    content = trimesh.Trimesh(TORUS.vertices, TORUS.faces).export(file_type="glb")
    item = MeshItem(caption="from a file", meshes=[Mesh(mesh=content)])
    found = Elements(render(Report(run="r", domain="d", sections=[MeshGallery(title="t", items=[item])])))
    back = unpack(next(t for t, a in zip(found.scripts, found.named("script"), strict=True) if a.get("type")))
    volume = trimesh.Trimesh(TORUS.vertices, TORUS.faces).volume
    assert trimesh.Trimesh(back.vertices, back.faces).volume == pytest.approx(volume, rel=1e-3)
    with pytest.raises(MeshError, match="GLB"):
        render(Report(run="r", domain="d", sections=[
            MeshGallery(title="t", items=[MeshItem(caption="c", meshes=[Mesh(mesh=b"not a mesh")])])]))  # fmt: skip


def test_train_and_validation_share_a_plot_and_values_lie_where_they_belong():
    """A straight line in the data is a straight line in the picture, on a log axis too."""
    falling = [Point(step, 10 ** (-step / 100)) for step in range(0, 201, 10)]
    (plot,) = charts.plots(
        Curve(stage="vae", name=f"{split}/loss", points=falling) for split in ("train", "val")
    )  # fmt: skip
    assert [line.split for line in plot.lines] == ["train", "val"]
    assert plot.better_log
    drawing = charts.svg(plot, log=True)
    dots = np.array([[float(x), float(y)] for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawing)])[:21]
    slope, offset = np.polyfit(dots[:, 0], dots[:, 1], 1)
    np.testing.assert_allclose(dots[:, 1], slope * dots[:, 0] + offset, atol=0.15)
    assert 'aria-label="vae: loss over 21 steps on a logarithmic scale' in drawing


def test_curves_that_cannot_be_drawn_are_left_out():
    nan = float("nan")
    curves = [
        Curve(stage="a", name="x", points=[Point(0, nan), Point(1, float("inf"))]),
        Curve(stage="a", name="y", points=[Point(0, 1.0), Point(1, nan)]),
        Curve(stage="a", name="z", points=[Point(0, -1.0), Point(5, 0.0)]),
    ]
    drawn = charts.plots(curves)
    assert [plot.quantity for plot in drawn] == ["y", "z"]
    assert not drawn[1].can_be_log
    for plot in drawn:
        assert "nan" not in charts.svg(plot, log=plot.can_be_log)


def test_numbers_and_durations_read_well():
    assert [words.number(x) for x in (0.012346, 3, 1.5e-7)] == ["0.01235", "3", "1.5e-07"]
    assert words.number(-2.5) == "\N{MINUS SIGN}2.5"
    assert words.number(123456) == "123\N{NARROW NO-BREAK SPACE}456"
    assert [words.duration(s) for s in (3, 48, 372, 11100, 187200)] == ["3.0 s", "48 s", "6 min 12 s", "3 h 05 min",
                                                                        "2 d 4 h"]  # fmt: skip
    assert words.shown(None) == "\N{EN DASH}"


def run_folder(folder: Path) -> Path:
    folder.mkdir()
    steps = {"prepare": {"state": "done", "attempts": 1, "seconds": 40.0},
             "train_vae": {"state": "done", "attempts": 2, "seconds": 166.0},
             "report": {"state": "running", "attempts": 1, "seconds": 0.0}}  # fmt: skip
    status = {"domain": "toy", "preset": "demo", "created": time.time(), "steps": steps}
    provenance = {"command": "penstock run toy --seed 3", "seed": 3, "code": {"commit": "c0ffee" * 6, "dirty": False},
                  "hardware": {"cores": 2, "gpus": []}, "data_fingerprint": "abcd"}  # fmt: skip
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "config.yaml").write_text("seed: 3\nvae:\n  width: 64\n")
    rows = ["stage,step,epoch,seconds,name,value", "vae,0,0,0.1,train/loss,1.0", "vae,1,0,0.2,train/loss,9.0",
            "vae,1,0,0.3,train/loss,0.5", "vae,2,0,0.4,val/loss,0.6", "vae,3,0,"]  # fmt: skip
    (folder / "metrics.csv").write_text("\n".join(rows))
    return folder


def test_the_common_sections_come_from_the_run_folder(tmp_path):
    folder = run_folder(tmp_path / "first")
    report = report_of_run(folder, [Text(title="Results", paragraphs=["good"])], summary="A toy.")
    assert [section.title for section in report.sections] == [
        "Results", "Training curves", "How long", "Configuration", "Provenance", "Make it again"]  # fmt: skip
    assert (report.run, report.domain, report.seconds) == ("first", "toy", 206.0)
    text = Elements(render(report)).text
    for expected in ("penstock run toy --seed 3", "abcd", "width", "train_vae", "in 2 attempts", "c0ffee"):
        assert expected in text


def test_a_step_logged_again_after_a_resume_counts_once(tmp_path):
    curves = losses(run_folder(tmp_path / "run") / "metrics.csv")
    assert curves is not None
    assert {curve.name: [(p.step, p.value) for p in curve.points] for curve in curves.curves} == {
        "train/loss": [(0, 1.0), (1, 0.5)],
        "val/loss": [(2, 0.6)],
    }


@pytest.mark.parametrize("content", [None, b"", b"\x00\xff\x00", b"[1, 2", b'{"steps": 3, "created": "x", "code": 1}'])
def test_missing_and_broken_files_do_not_stop_the_report(tmp_path, content):
    for name in ("status.json", "provenance.json", "config.yaml", "metrics.csv"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    write_report(tmp_path / "report.html", report_of_run(tmp_path, [], domain="toy"))
    assert Elements((tmp_path / "report.html").read_text()).named("h1")


def test_the_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_report(path, everything())
    before = path.read_bytes()

    def full(self: Path, text: str, encoding: str) -> int:
        self.write_bytes(text.encode(encoding)[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(page.Path, "write_text", full)
    with pytest.raises(DiskFullError):
        write_report(path, everything("changed"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_report_is_the_same_file():
    assert render(everything()) == render(everything())


def browse(path: Path, profile: Path, *switches: str) -> tuple[str, str]:
    """The page as Chromium sees it after a few seconds of its own time, and what it said on the console."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader",
               "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run", "--disable-background-networking",
               "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--window-size=1200,2400",
               "--virtual-time-budget=8000", "--enable-logging=stderr", "--dump-dom", *switches,
               path.as_uri()]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=180)
    if not result.stdout:
        pytest.skip(f"chromium does not start here: {result.stderr[-300:]}")
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line and "GL Driver Message" not in line]
    return result.stdout, "\n".join(console)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to open the report with")
def test_the_viewer_shows_every_mesh_in_a_browser(tmp_path):
    """Opened from the disk, all 20 views (more than the WebGL contexts of a page) are drawn, without a complaint."""
    path = tmp_path / "a folder" / "report.html"
    write_report(path, Report(run="r", domain="d", sections=[gallery(count=20), *everything(HOSTILE).sections]))
    dom, console = browse(path, tmp_path / "profile")
    assert 'data-viewer="ready"' in dom.split("<head>")[0], console
    stages = [a for a in Elements(dom).named("div") if "data-stage" in a]
    assert len(stages) == 21
    # A view is drawn when it comes near the window, and no view has failed.
    assert sum(a.get("data-ready") == "true" for a in stages) >= 10
    assert not any("data-failed" in a for a in stages)
    assert console == ""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to open the report with")
def test_without_webgl_the_page_says_so(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, everything())
    dom, _ = browse(path, tmp_path / "profile", "--disable-3d-apis")
    assert 'data-viewer="unavailable"' in dom.split("<head>")[0]
    assert re.search(r'<p class="no-webgl">This 3D view needs WebGL', dom)
