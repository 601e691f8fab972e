"""What prepared forecasting data looks like on disk."""

from data.schema import Array, Attribute, FileKind

FORECAST_SERIES = FileKind(
    name="forecast-series",
    version=1,
    meaning=(
        "Time series on regular grids, one item per series. NaN is what was not measured: nothing is filled in. Row k "
        "of an item is the stamp `start` + k steps; `known` may go on where the targets end."
    ),
    arrays={
        "targets": Array("step* target", "float64", "as read", "What is to be forecast."),
        "observed": Array(
            "step* observed", "float64", "as read", "Covariates that are known up to now only.", optional=True
        ),
        "known": Array(
            "ahead* known",
            "float64",
            "as read",
            "Covariates that are known ahead, from the series' first step on and at least to its last.",
            optional=True,
        ),
        "static": Array("static", "float64", "as read", "What does not change along the series.", optional=True),
        "start": Array("", "int64", "ns", "Stamp of row 0: nanoseconds since 1970 (UTC), or the first integer step."),
    },
    attributes={
        "columns": Attribute("str", "JSON: names of the columns of each array, in order, as the reader made them."),
        "step": Attribute("str", "Step of the grid as a pandas frequency ('h', '15min', 'MS'), or an integer."),
        "zone": Attribute("str", "Time zone that the stamps are shown in; '' where they came without."),
        "gaps": Attribute("bool", "Whether any value is missing."),
        "reading": Attribute("str", "JSON: how the table was read, and what was done to it."),
    },
)

LABELLED_SEQUENCES = FileKind(
    name="labelled-sequences",
    version=1,
    meaning="Sequences of different length with a class each. NaN is what was not measured.",
    arrays={
        "values": Array("step* feature", "float32", "as read", "The sequence."),
        "label": Array("", "int64", "1", "Class index; -1 where it is not known."),
        "split": Array("", "str", "", "`train` or `test`, as the source says."),
    },
    attributes={"classes": Attribute("str", "JSON: names of the classes in the order of their index.")},
)

FILMS = FileKind(
    name="films",
    version=1,
    meaning="Short films of equal size.",
    arrays={
        "frames": Array("time channel height width", "uint8", "1/255", "The frames in order."),
    },
    attributes={
        "seen": Attribute("int64", "Frames that are seen; the others are to be predicted.", "frames"),
        "key": Attribute("str", "SHA-256 over inputs and settings: equal keys, equal films."),
    },
)
