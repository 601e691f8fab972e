"""Charts of the forecast that a run has made, for its report and for W&B."""

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.report import Figure
from flows.steps.forecast_charts import fan_chart
from flows.steps.forecast_tables import step_stamps
from flows.steps.forecast_workbench import Workbench

if TYPE_CHECKING:
    from flows.steps.forecast_future import Future


def forecast_figures(bench: Workbench, future: "Future", count: int) -> list[Figure]:
    """The first `count` forecasts, series after series and target after target, with what was known before them."""
    store, figures = bench.store, list[Figure]()
    back = min(bench.shape.look_back, 4 * bench.shape.horizon)
    for row in range(len(future.items)):
        for target, name in enumerate(store.columns["targets"]):
            if len(figures) == count:
                return figures
            item, origin = int(future.items[row]), int(future.origins[row])
            history = store.read(item, "targets", origin - back, origin)[:, target]
            truth = store.read(item, "targets", origin, origin + bench.shape.horizon)[:, target]
            steps = np.array([origin - back, origin, origin + bench.shape.horizon - 1])
            named = [stamp_text(stamp) for stamp in step_stamps(store, np.full(3, item), steps)]
            drawn = fan_chart(history, future.quantiles[row, :, target], future.levels, named, truth)
            label = name if len(store.ids) == 1 else f"{store.ids[item]}, {name}"
            figures.append(Figure(image=drawn, caption=label, alt=f"forecast of {label}"))
    return figures


def as_page(figures: list[Figure]) -> str:
    """Charts with their captions as HTML."""
    drawn = [(escape(one.caption), one.image) for one in figures if isinstance(one.image, str)]
    return "".join(f"<figure><figcaption>{caption}</figcaption>{image}</figure>" for caption, image in drawn)


def stamp_text(stamp: Any) -> str:
    """A stamp as people write it: without seconds, and without a time of day where that is midnight."""
    if not isinstance(stamp, np.datetime64):
        return str(stamp)
    text = str(stamp.astype("datetime64[m]")).replace("T", " ")
    return text.removesuffix(" 00:00")
