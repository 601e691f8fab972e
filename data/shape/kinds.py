"""The tables of the files that hold prepared shapes and their latents."""

from data.schema import Array, Attribute, FileKind

SHAPE_SAMPLES = FileKind(
    name="shape.samples",
    version=1,
    meaning=(
        "Solids in the cube [-1, 1]^3 with points and signed distances, what the shape VAE learns from. Distances are "
        "positive outside, not truncated, and belong to the stored triangle mesh itself."
    ),
    arrays={
        "surface": Array("point* channel=6", "float32", "cube", "uniform by area: position, unit outward normal"),
        "sharp": Array(
            "sharp* channel=6",
            "float32",
            "cube",
            "uniform by length on sharp edges: position, unit mean of both faces' normals; empty without such edges",
        ),
        "near": Array(
            "near* channel=4", "float32", "cube", "surface points moved by Gaussian noise: position, distance"
        ),
        "volume": Array("volume* channel=4", "float32", "cube", "uniform in the cube: position, distance"),
        "vertices": Array("vertex* xyz=3", "float32", "cube", "the solid's triangle mesh"),
        "faces": Array("face* corner=3", "int32", "1", "rows of vertices, counter-clockwise seen from outside"),
        "centre": Array("xyz=3", "float64", "source", "cube position = (source position - centre) * scale"),
        "scale": Array("", "float64", "cube/source", "see centre"),
        "label": Array("", "int32", "1", "position in the attribute classes, -1 without a class"),
        "treatment": Array("", "str", "1", "what was done to the source mesh: 'as is', or what was repaired and how"),
    },
    attributes={
        "key": Attribute("str", "hash of the configuration and of all inputs' content"),
        "config": Attribute("str", "the configuration of the preparation, JSON"),
        "classes": Attribute("str", "names of the classes, JSON list"),
    },
)

SHAPE_LATENTS = FileKind(
    name="shape.latents",
    version=1,
    meaning="Posteriors of the shape VAE, one per solid: what the rectified flow learns from.",
    arrays={
        "mean": Array("token channel", "float32", "1", "posterior mean"),
        "logvar": Array("token channel", "float32", "1", "logarithm of the posterior variance"),
        "label": Array("", "int32", "1", "position in the attribute classes, -1 without a class"),
        "condition": Array("condition_token width", "float32", "1", "condition tokens (image features)", optional=True),
    },
    attributes={
        "vae": Attribute("str", "fingerprint of the VAE's weights that encoded"),
        "samples": Attribute("str", "fingerprint of the prepared samples that were encoded"),
        "classes": Attribute("str", "names of the classes, JSON list"),
    },
)
