"""A training's losses: `loss.jsonl` for machines, `loss.svg` for people."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

from ctd_agent.measure.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, element, number

Point = tuple[float, float]  # a step and its loss
COLOURS = {"loss": "#4269d0", "dev_loss": "#d1495b"}
NAMES = {"loss": "training", "dev_loss": "dev"}


def losses(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the measurements in a trainer's log: each a step with its `loss` or its `dev_loss`."""
    return [
        {"step": entry["step"], "epoch": round(entry["epoch"], 3), name: entry[key]}
        for entry in log
        for key, name in (("loss", "loss"), ("eval_loss", "dev_loss"))
        if key in entry
    ]


def write_losses(folder: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """Write both files into a folder, from a trainer's log so far."""
    history = losses(log)
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    (folder / "loss.jsonl").write_text(lines, encoding="utf-8")
    series = {name: [(entry["step"], entry[name]) for entry in history if name in entry] for name in NAMES}
    drawn = {name: points for name, points in series.items() if points}
    if drawn:
        (folder / "loss.svg").write_bytes(tostring(_chart(drawn), encoding="utf-8"))


def _chart(series: Mapping[str, Sequence[Point]]) -> Element:
    right = max(step for points in series.values() for step, _ in points)
    top = max(loss for points in series.values() for _, loss in points) or 1.0

    def place(step: float, loss: float) -> Point:
        across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + across * step / right, TOP + up * (1 - loss / top)

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        (_, y), (x, _) = place(0, tick * top), place(tick * right, 0)
        line = {"x1": f"{LEFT}", "x2": f"{WIDTH - RIGHT}", "y1": f"{y:.1f}", "y2": f"{y:.1f}", "stroke": "#ddd"}
        parts.append(element("line", **line))
        parts.append(element("text", number(tick * top), x=f"{LEFT - 4}", y=f"{y + 4:.1f}", text_anchor="end"))
        below = f"{HEIGHT - BOTTOM + 16}"
        parts.append(element("text", f"{tick * right:,.4g}", x=f"{x:.1f}", y=below, text_anchor="middle"))
    for row, (name, points) in enumerate(series.items()):
        path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points)
        parts.append(element("polyline", points=path, fill="none", stroke=COLOURS[name], stroke_width="2"))
        last = f"{NAMES[name]}: {number(points[-1][1])} at the end"
        key = {"x": f"{WIDTH - RIGHT}", "y": f"{TOP + 14 + 16 * row}", "text_anchor": "end", "fill": COLOURS[name]}
        parts.append(element("text", last, **key))
    parts.append(element("text", "step", x=f"{WIDTH / 2}", y=f"{HEIGHT - 6}", text_anchor="middle"))
    box = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "font-size": "11"}
    return element("svg", *parts, **box, font_family="sans-serif", role="img", aria_label="loss by step")
