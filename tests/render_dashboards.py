#!/usr/bin/env python3
"""Draws dashboards as PNG from a Prometheus's data, so that the docs show what to expect.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install matplotlib==3.11.2
    /tmp/venv/bin/python tests/render_dashboards.py http://127.0.0.1:9090 docs/images overview pipeline

It draws numbers and lines of the last 15 minutes (MINUTES=…), not tables: these come from PostgreSQL.
It is a drawing of the same data, not Grafana's.
"""

import io
import json
import math
import os
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates as dates
import matplotlib.pyplot as plt
from PIL import Image
from matplotlib.ticker import FuncFormatter

MINUTES = int(os.environ.get("MINUTES", "15"))
DASHBOARDS = pathlib.Path(__file__).parent.parent / "deploy/grafana/dashboards"


def ask(prometheus, path, **parameters):
    url = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)["data"]["result"]


def filled(query):
    return query.replace("$__rate_interval", "1m")


def named(legend, labels):
    if legend == "__auto":
        return ", ".join(f"{name}={value}" for name, value in labels.items() if name != "__name__")
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), legend)


def shown(value, unit):
    if math.isnan(value):
        return "no data"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "bytes":
        power = min(int(math.log(max(abs(value), 1), 1024)), 4)
        return f"{value / 1024**power:.3g} {['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if 0 < abs(value) < 1 else f"{value:.3g} s"
    return f"{value:.4g}" + ("/s" if unit == "cps" else "")


def draw_number(axes, prometheus, panel, unit):
    axes.axis("off")
    found = ask(prometheus, "query", query=filled(panel["targets"][0]["expr"]))
    value = float(found[0]["value"][1]) if found else math.nan
    color = "black"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = {"green": "#2a8a3a", "red": "#c4162a"}[step["color"]]
    axes.text(0.5, 0.4, shown(value, unit), ha="center", va="center", fontsize=17, color=color)


def draw_lines(axes, prometheus, panel, unit):
    now = time.time()
    lines = []
    for target in panel["targets"]:
        found = ask(prometheus, "query_range", query=filled(target["expr"]), start=now - MINUTES * 60, end=now, step=MINUTES)
        for series in found:
            points = [(at / 86400, float(value)) for at, value in series["values"]]
            lines.append((named(target["legendFormat"], series["metric"]), points))
    # The largest are shown; the others would only fill the legend.
    lines.sort(key=lambda line: -max((value for _, value in line[1] if not math.isnan(value)), default=0))
    for name, points in lines[:8]:
        axes.plot([at for at, _ in points], [value for _, value in points], label=name[:40], linewidth=1)
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=6)
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(fontsize=5.5, loc="upper left", framealpha=0.6)


def draw(prometheus, name, folder):
    dashboard = json.loads((DASHBOARDS / f"{name}.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] in ("stat", "timeseries") and "expr" in panel["targets"][0]]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    # Inches: of a column and a row of Grafana's grid, and around a panel's axes.
    column, row, top = 0.5, 0.27, 0.25
    width, height = 24 * column, rows * row + top
    figure = plt.figure(figsize=(width, height))
    for panel in panels:
        at = panel["gridPos"]
        left, bottom = at["x"] * column + 0.5, height - top - (at["y"] + at["h"]) * row + 0.2
        box = (left / width, bottom / height, (at["w"] * column - 0.6) / width, (at["h"] * row - 0.45) / height)
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], fontsize=8, loc="left")
        unit = panel["fieldConfig"]["defaults"]["unit"]
        {"stat": draw_number, "timeseries": draw_lines}[panel["type"]](axes, prometheus, panel, unit)
    figure.text(0.01, 1 - 0.08 / height, dashboard["title"], fontsize=10, va="top")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=85)
    # Few colours make a small file.
    Image.open(drawn).convert("RGB").quantize(128).save(pathlib.Path(folder) / f"{name}.png", optimize=True)


for name in sys.argv[3:]:
    draw(sys.argv[1], name, sys.argv[2])
