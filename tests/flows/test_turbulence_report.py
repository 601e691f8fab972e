"""The report of a turbulence run: every model in its place, those that blew up too, and words that say who wins."""

import json
import math
import re
import time
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.grid import Grid, between_walls, fourier
from data.turbulence.comparison import compare
from data.turbulence.statistics import FlowStatistics
from data.turbulence.well import WellWriter
from flows.run import Run
from flows.steps import turbulence_pictures as pictures
from flows.steps.turbulence_charts import Line, Mark, Scale, chart, points_chart
from flows.steps.turbulence_report import report
from flows.steps.turbulence_snapshots import snapshot_steps
from flows.steps.turbulence_verdict import typical_error, verdict

PLANE = Grid((fourier("x", 16, 2 * np.pi), fourier("y", 12, 2 * np.pi)))
CHANNEL = Grid((fourier("x", 8, 4 * np.pi), between_walls("y", 9), fourier("z", 6, 4 * np.pi / 3)))
BOX = Grid(tuple(fourier(name, 6, 2 * np.pi) for name in "xyz"))
VELOCITY = ("velocity_x", "velocity_y", "velocity_z")
FLOWS = {
    "plane": (PLANE, ("vorticity",)),
    "velocity": (PLANE, VELOCITY[:2]),
    "channel": (CHANNEL, VELOCITY),
    "box": (BOX, VELOCITY),
}
STEPS, SPACING, NU = 24, 0.25, 0.05


def frame(grid, components, time, size, shift=0.0):
    """A few waves that travel, on a parabola between walls."""
    x, y, *rest = np.meshgrid(*(axis.points for axis in grid.axes), indexing="ij")
    z = rest[0] if rest else np.zeros_like(x)
    kx = 2 * np.pi / grid.axes[0].length
    wall = y * (2 - y) if grid.walls is not None else 1.0
    parts = [
        size
        * wall
        * (np.sin(kx * (c + 1) * (x - time) + shift) + 0.4 * np.cos(kx * 2 * x + (c + 1) * y + 1.5 * z + time))
        for c in range(len(components))
    ]
    if grid.walls is not None:
        parts[0] = parts[0] + 8 * wall
    return np.stack(parts, axis=-1).astype(np.float32)


def rollout(folder, name, grid, components, size, shift, steps=STEPS):
    with WellWriter(
        folder / f"{name}.hdf5", name=name, grid=grid, components=components, parameters={"nu": NU}
    ) as writer:
        for k in range(steps + 1):
            writer.append(0, k * SPACING, frame(grid, components, k * SPACING, size, shift))


def statistics(path, grid, components, size, shift, like=None):
    found = FlowStatistics(grid, components, nu=NU, block=4, like=like)
    for k in range(40):
        found.add(frame(grid, components, k * SPACING, size, shift), k * SPACING)
    done = found.finished()
    done.save(path)
    return done


def model(kind, level, *, rows=(), steps=STEPS, stopped=None, seconds=1.0, **more):
    errors = [1 - math.exp(-level * k) for k in range(1, 11)]
    return {
        "kind": kind,
        "parameters": 1234 if kind == "network" else None,
        "seconds_per_frame": seconds,
        "steps": steps,
        "stopped": stopped or {},
        "error_by_step": {"relative_l2": errors, "vrmse": errors, "correlation": [1 - error for error in errors]},
        "statistics": list(rows),
        "time_to_divergence": None,
        **more,
    }


def run_of(folder: Path, flow: str, *, bare: bool = False) -> Run:
    """A run folder with the simulation, a network that lasts, one that blew up, and a solver; or with nothing but the
    results of one network."""
    grid, components = FLOWS[flow]
    path = folder / "made"
    for name in ("samples", "evaluation"):
        (path / name).mkdir(parents=True)
    (path / "status.json").write_text(
        json.dumps({"domain": "turbulence", "preset": "demo", "created": time.time(), "steps": {}})
    )
    source = {"source": str(folder / "<fields>.hdf5"), "file": "x"}
    (path / "provenance.json").write_text(json.dumps({"command": "penstock run turbulence", "data": source}))
    models = {"operator": model("network", 0.1)}
    if not bare:
        reference = statistics(path / "evaluation" / "simulation.h5", grid, components, 1.0, 0.0)

        def rows(name, size):
            made = statistics(path / "evaluation" / f"{name}.h5", grid, components, size, 0.5, like=reference)
            return [
                {
                    "quantity": r.quantity,
                    "error": r.error,
                    "plus_minus": None if math.isnan(r.plus_minus) else r.plus_minus,
                }
                for r in compare(made, reference)
            ]

        rollout(path / "samples", "reference", grid, components, 1.0, 0.0, steps=10)
        rollout(path / "samples", "operator", grid, components, 1.1, 0.1)
        rollout(path / "samples", "coarse", grid, components, 0.9, 0.2)
        rollout(path / "samples", "fno", grid, components, 40.0, 0.2, steps=3)
        models = {
            "simulation": {"kind": "reference", "statistics": [], "steps": 40},
            "simulation-test": {"kind": "reference", "statistics": rows("simulation-test", 1.02), "steps": 10},
            "persistence": {"kind": "floor", "statistics": [], "error_by_step": model("", 0.5)["error_by_step"]},
            "operator": model("network", 0.1, rows=rows("operator", 1.1), stable=True, verdict="energy in the band"),
            "fno": model(
                "network", 0.3, steps=3, stopped={"0": {"step": 3, "reason": "energy 40 times <the band>"}},
                stable=False, verdict="ended at time 0.75 of 6",
            ),
            "coarse": model("solver", 0.05, rows=rows("coarse", 1.01), seconds=0.01),
        }  # fmt: skip
    results = {"models": models, "spacing": SPACING, "steps": STEPS, "trajectories": 1, "data": {"name": flow}}
    (path / "evaluation" / "results.json").write_text(json.dumps(results))
    return Run(path)


def images(page):
    """Pictures in a page, as SVG source."""
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    return [b64decode(one).decode() for one in found]


@pytest.mark.parametrize("flow", FLOWS)
def test_everything_is_in_the_page(tmp_path, flow):
    run = run_of(tmp_path, flow)
    report(run)
    page = (run.path / "report.html").read_text()
    titles = re.findall(r'<h2 id="[^"]*">([^<]*)</h2>', page)
    expected = ["What came out", "The flow", "Step by step", "Models", "Long rollouts", "Spectra", "Densities"]
    expected += ["What accuracy costs", "Errors of the statistics"] + (["Profiles"] if flow == "channel" else [])
    assert set(expected) <= set(titles)
    assert ("Profiles" in titles) == (flow == "channel")
    assert "IFactFormer-m and coarse run without a model stayed bounded over all 24 steps (6 units of time)." in page
    assert "FNO ended early at step 3 of 24: energy 40 times &lt;the band&gt;." in page
    assert "The coarse spectral run without a model is nearer to the simulation than every network" in page
    assert "100 times as much as that run" in page
    assert "&lt;fields&gt;" in page
    assert "<fields>" not in page
    charts = images(page)
    assert len(charts) >= 10
    assert all("nan" not in re.sub('base64,[^"]*', "", one) for one in charts)
    for one in charts[2:5]:  # step by step
        assert all(name in one for name in ("IFactFormer-m", "FNO", "no model (coarse)", "persistence"))


def test_a_run_of_which_little_is_left(tmp_path):
    run = run_of(tmp_path, "plane", bare=True)
    report(run)
    page = (run.path / "report.html").read_text()
    assert "IFactFormer-m stayed bounded" in page
    assert "The flow" not in page


def test_a_damaged_rollout_keeps_no_report_from_being_written(tmp_path):
    run = run_of(tmp_path, "plane")
    (run.path / "samples" / "operator.hdf5").write_bytes(b"no HDF5")
    report(run)
    assert ">FNO</text>" in images((run.path / "report.html").read_text())[0]


def test_a_film_shows_its_frames_in_turn():
    """Every frame stands in the strip where style moves it behind the window, its border rows twice."""
    grid, components = FLOWS["plane"]
    view = pictures.view_of(grid, components, None)
    frames = [pictures.raster(view, view.plane(frame(grid, components, k, 1.0))) for k in range(5)]
    limit = pictures.limit_of(frames)
    drawn = pictures.film({"DNS": frames, "model": [*frames[:2], None, None, None]}, list("abcde"), limit, "w")
    strips = [b64decode(s) for s in re.findall(r'class="film"><image href="data:image/png;base64,([^"]+)"', drawn)]
    rows, columns = frames[0].shape
    for strip, known in zip(strips, (5, 2), strict=True):
        shown = np.asarray(Image.open(BytesIO(strip)).convert("RGB"))
        assert shown.shape == (5 * (rows + 2), columns, 3)
        for k, part in enumerate(np.split(shown, 5)):
            expected = pictures.colour_indices(frames[k] if k < known else np.full((rows, columns), np.nan), limit)
            assert (part[1:-1] == pictures.palette()[expected]).all()
            assert (part[0] == part[1]).all()
            assert (part[-1] == part[-2]).all()
    height = float(re.search(r'height="([\d.]+)" preserveAspectRatio="none"/></g></g>', drawn)[1])
    moved = float(re.search(r"film{to{transform:translateY\((-[\d.]+)px\)}", drawn)[1])
    assert moved == pytest.approx(-height)
    assert "steps(5) infinite" in drawn


def test_a_long_film_is_thinned_out(monkeypatch):
    random = np.random.default_rng(0)
    frames = [random.standard_normal((40, 40)) for _ in range(60)]
    whole = pictures.film({"noise": frames}, ["t"] * 60, 3.0, "w")
    monkeypatch.setattr(pictures, "FILM_BYTES", 20_000)
    thin = pictures.film({"noise": frames}, ["t"] * 60, 3.0, "w")
    assert len(thin) < 1.35 * 22_000 + 4000 < len(whole)


def test_pictures_stand_upright():
    """x to the right, y upwards, wherever the points lie."""
    for grid in (PLANE, Grid((fourier("x", 10, 3.0), between_walls("y", 11)))):
        view = pictures.View(grid, 0, 1, None, ("vorticity",), "scalar", "vorticity")
        x, y = np.meshgrid(*(axis.points for axis in grid.axes), indexing="ij")
        wave = np.sin(2 * np.pi * x / grid.axes[0].length) + 3 * np.cos(np.pi * y / grid.axes[1].length) ** 2
        shown = pictures.raster(view, wave)
        rows, columns = shown.shape
        across = (np.arange(columns) + 0.5) / columns
        up = (np.arange(rows)[::-1] + 0.5) / rows
        expected = np.sin(2 * np.pi * across)[None] + 3 * np.cos(np.pi * up)[:, None] ** 2
        assert np.abs(shown - expected).max() < 0.03
    assert np.isnan(pictures.raster(view, np.full((10, 11), np.inf))).all()


def test_vorticity_of_a_vortex():
    view = pictures.view_of(PLANE, VELOCITY[:2], None)
    x, y = np.meshgrid(*(axis.points for axis in PLANE.axes), indexing="ij")
    field = np.stack([np.sin(y), 2 * np.sin(x)], axis=-1)
    assert np.allclose(view.plane(field), 2 * np.cos(x) - np.cos(y))


def test_streaks_are_shown_near_the_wall():
    view = pictures.view_of(CHANNEL, VELOCITY, 0.01)
    assert (view.across, view.up) == (0, 2)
    assert view.level == np.argmin(np.abs(CHANNEL.axes[1].points - 0.15))
    random = np.random.default_rng(0).standard_normal((*CHANNEL.shape, 3))
    plane = random[:, view.level, :, 0]
    assert np.allclose(view.plane(random), plane - plane.mean())


def test_colours_are_even_and_signs_alike():
    """Lightness (CIE L*) falls in equal steps to both sides of the middle; grey is no colour of a value."""
    colours = pictures.palette()[: pictures.LEVELS] / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    light = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    middle = pictures.LEVELS // 2
    assert light[middle] == light.max() > 95
    assert np.abs(light - light[::-1]).max() < 8
    steps = np.diff(light[middle:])
    assert (steps < 0).all()
    assert steps.min() > 2.5 * steps.mean()
    assert (pictures.palette()[pictures.BLANK] == 150).all()
    assert pictures.colour_indices(np.array([-9.0, 0.0, 9.0, np.nan]), 3.0).tolist() == [0, middle, 120, 121]


def test_snapshot_steps():
    assert snapshot_steps(1) == [1]
    assert snapshot_steps(200) == [1, 4, 14, 53, 200]


def test_charts_leave_out_what_cannot_be_drawn():
    drawn = chart(
        [
            Line(
                name="a<b", x=[1, 2, 3, 4], y=[0.0, 1e-3, math.nan, math.inf], colour="#123456", half_width=[1, 1, 1, 1]
            ),
            Line(name="plain", x=[1, 10, 100, 1000], y=[1.0, 0.1, 0.01, 1e-3], dots=True),
            Line(name="none", x=[1.0], y=[math.nan], colour="#654321"),
        ],
        across=Scale(words="k", log=True),
        up=Scale(words="E", log=True),
        level=(0.5, "floor"),
    )
    assert "a&lt;b" in drawn
    assert "plain" in drawn
    assert ">none<" not in drawn
    assert "nan" not in drawn
    assert "inf" not in drawn
    empty = points_chart([Mark(name="gone", x=math.nan, y=1.0)], across=Scale(words="c", log=True), up=Scale(words="e"))
    assert "gone" not in empty
    assert "nan" not in empty


def test_the_axes_are_where_they_say():
    drawn = chart(
        [Line(name="", x=[1, 100], y=[1e-4, 1.0])], across=Scale(words="k", log=True), up=Scale(words="E", log=True)
    )
    labels = dict(re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="middle">([\d.]+)</text>', drawn))
    places = {float(text): float(x) for x, text in labels.items()}
    assert places[10] - places[1] == pytest.approx(places[100] - places[10], abs=0.11)


def rows_of(**errors):
    return [{"quantity": name, "error": error, "plus_minus": width} for name, (error, width) in errors.items()]


def test_words_say_who_wins():
    def said(operator, coarse):
        models = {
            "operator": model("network", 0.1, rows=operator, seconds=2.0),
            "coarse": model("solver", 0.2, rows=coarse, seconds=4.0),
        }
        return " ".join(verdict({"models": models, "steps": STEPS, "spacing": SPACING}))

    better = said(rows_of(a=(0.1, 0.01), b=(0.1, 0.01)), rows_of(a=(0.3, 0.01), b=(0.102, 0.01)))
    assert (
        "IFactFormer-m beats the coarse spectral run without a model in 1 of 2 statistics; 1 cannot be told" in better
    )
    assert "costs 2 times less than that run" in better
    assert "IFactFormer-m is nearer than the coarse spectral run" in better
    worse = said(rows_of(a=(0.3, 0.01), b=(0.4, None)), rows_of(a=(0.1, 0.01), b=(0.2, None)))
    assert "The coarse spectral run without a model beats IFactFormer-m in 2 of 2 statistics." in worse
    even = said(rows_of(a=(0.3, 0.5)), rows_of(a=(0.1, 0.5)))
    assert "Neither IFactFormer-m nor the coarse spectral run without a model is ahead" in even
    assert "Typical error of the 1 long-time statistic" in even


def test_typical_error():
    made = model("network", 0.1, rows=rows_of(a=(0.1, 0.0), b=(0.4, 0.0)))
    assert typical_error(made, ["a", "b"]) == pytest.approx(0.2)
    assert math.isnan(typical_error(made, ["a", "c"]))
    assert math.isnan(typical_error({}, ["a"]))


def test_ends_are_told():
    models = {
        "operator": model("network", 0.1, stable=False, verdict="the energy left the band at time 3"),
        "fno": model(
            "network", 0.1, steps=2, stopped={"1": {"step": 2, "reason": "NaN."}, "3": {"step": 9, "reason": "x"}}
        ),
        "wale": model("solver", 0.1, steps=7),
    }
    said = " ".join(verdict({"models": models, "steps": STEPS, "spacing": SPACING, "trajectories": 4}))
    assert "IFactFormer-m did not keep to the simulation: the energy left the band at time 3." in said
    assert "FNO ended early in 2 of 4 rollouts, first at step 2 of 24: NaN." in said
    assert "WALE LES covers 7 of 24 steps." in said
