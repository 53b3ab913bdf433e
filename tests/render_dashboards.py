#!/usr/bin/env python3
"""Draws the dashboards as PNG, so that the docs show what to expect.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install matplotlib==3.11.2
    PYTHON=/tmp/venv/bin/python cargo nextest run --workspace --test dashboards --run-ignored only gallery

The test `gallery` starts everything, lets endpoints fail for three minutes, and calls this:

    DATABASE_URL=… tests/render_dashboards.py http://127.0.0.1:9090 docs/images [NAME…]

Without a NAME it draws every dashboard. Numbers and lines are of the last MINUTES (15). Panels by tenant or
webhook ask PostgreSQL as DATABASE_URL says, which should be that of posthorn_reader, with psql. TENANT is
the tenant whose dashboard is drawn; by default the first one. It is a drawing of the same data, not Grafana's.
"""

import csv
import datetime
import io
import json
import math
import os
import pathlib
import re
import subprocess
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


def rows(query):
    """What PostgreSQL answers: the names of the columns, and then the rows, as text."""
    if "DATABASE_URL" not in os.environ:
        sys.exit("render_dashboards: set DATABASE_URL: some panels ask PostgreSQL")
    url = urllib.parse.urlsplit(os.environ["DATABASE_URL"])
    # In the environment, because every user of a machine can read a command's arguments.
    connection = {
        "PGHOST": url.hostname,
        "PGPORT": str(url.port or 5432),
        "PGUSER": urllib.parse.unquote(url.username or ""),
        "PGPASSWORD": urllib.parse.unquote(url.password or ""),
        "PGDATABASE": url.path.strip("/"),
        "PGSSLMODE": urllib.parse.parse_qs(url.query).get("sslmode", ["prefer"])[0],
        "PGTZ": "UTC",
    }
    command = ["psql", "--no-psqlrc", "--csv", "--set=ON_ERROR_STOP=1", f"--command={query}"]
    asked = subprocess.run(command, env={**os.environ, **connection}, check=True, stdout=subprocess.PIPE, text=True)
    return list(csv.reader(io.StringIO(asked.stdout)))


def filled_sql(query):
    if "${tenant:sqlstring}" in query:
        # A tenant's id has no character that would have to be escaped.
        query = query.replace("${tenant:sqlstring}", f"'{os.environ.get('TENANT') or first_tenant()}'")
    return re.sub(r"\$__timeFilter\((\w+)\)", r"\1 BETWEEN now() - interval '1 hour' AND now()", query)


def first_tenant():
    return rows("SELECT id FROM tenants ORDER BY id LIMIT 1")[1][0]


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


def number_of(prometheus, target):
    if "rawSql" in target:
        found = rows(filled_sql(target["rawSql"]))[1:]
        return float(found[0][0]) if found and found[0][0] else math.nan
    found = ask(prometheus, "query", query=filled(target["expr"]))
    return float(found[0]["value"][1]) if found else math.nan


def lines_of(prometheus, target):
    """Pairs of a name and of points; a point is a day since 1970 and a value."""
    if "rawSql" in target:
        names, *found = rows(filled_sql(target["rawSql"]))
        at = [datetime.datetime.fromisoformat(row[0]).timestamp() / 86400 for row in found]
        return [
            (name, [(when, float(row[column])) for when, row in zip(at, found) if row[column]])
            for column, name in enumerate(names)
            if column > 0
        ]
    return [
        (named(target["legendFormat"], series["metric"]), [(at / 86400, float(value)) for at, value in series["values"]])
        for series in over_time(prometheus, target["expr"])
    ]


def over_time(prometheus, query):
    now = time.time()
    return ask(prometheus, "query_range", query=filled(query), start=now - MINUTES * 60, end=now, step=MINUTES)


def draw_number(axes, prometheus, panel, unit):
    axes.axis("off")
    value = number_of(prometheus, panel["targets"][0])
    color = "black"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = {"green": "#2a8a3a", "red": "#c4162a"}[step["color"]]
    axes.text(0.5, 0.4, shown(value, unit), ha="center", va="center", fontsize=17, color=color)


def show_time(axes):
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=5))
    axes.tick_params(labelsize=6)


def draw_lines(axes, prometheus, panel, unit):
    lines = [line for target in panel["targets"] for line in lines_of(prometheus, target)]
    # The largest are shown; the others would only fill the legend.
    lines.sort(key=lambda line: -max((value for _, value in line[1] if not math.isnan(value)), default=0))
    for name, points in lines[:8]:
        # One quarter of an hour alone is no line.
        marker = "o" if len(points) < 3 else None
        axes.plot([at for at, _ in points], [value for _, value in points], label=name[:40], linewidth=1, marker=marker, markersize=3)
    show_time(axes)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if any(name for name, _ in lines[:8]):
        axes.legend(fontsize=5.5, loc="upper left", framealpha=0.6)


def draw_heatmap(axes, prometheus, panel, unit):
    """Each bucket's own count over time: darker is more. Prometheus's buckets count from 0 up."""
    found = over_time(prometheus, panel["targets"][0]["expr"])
    upto = sorted((float(series["metric"]["le"]), dict(series["values"])) for series in found)
    times = sorted({at for _, values in upto for at in values})
    if len(times) > 1:
        counts = [[float(values.get(at, 0)) for at in times] for _, values in upto]
        alone = [[more - less for more, less in zip(row, below)] for row, below in zip(counts, [[0.0] * len(times), *counts])]
        scaled = [[math.sqrt(max(count, 0)) for count in row] for row in alone]
        axes.pcolormesh([at / 86400 for at in times], range(len(upto)), scaled, cmap="Oranges", shading="nearest")
    axes.set_yticks(range(len(upto)), ["more" if math.isinf(le) else shown(le, unit) for le, _ in upto])
    show_time(axes)


def draw_table(axes, _prometheus, panel, _unit):
    axes.axis("off")
    names, *found = rows(filled_sql(panel["targets"][0]["rawSql"]))
    # As many characters as fit. Times are shown to the second.
    widest = int(panel["gridPos"]["w"] * 7 / len(names))
    cells = [[re.sub(r"(:\d\d)\.\d+.*", r"\1", cell)[:widest] for cell in row] for row in found[:8]]
    cells = cells or [["no rows"] + [""] * (len(names) - 1)]
    height = (len(cells) + 1) / 9
    table = axes.table(cellText=cells, colLabels=names, cellLoc="left", bbox=[0, 1 - height, 1, height])
    table.auto_set_font_size(False)
    table.set_fontsize(6)
    for cell in table.get_celld().values():
        cell.set_linewidth(0.3)


DRAW = {"stat": draw_number, "timeseries": draw_lines, "heatmap": draw_heatmap, "table": draw_table}


def draw(prometheus, name, folder):
    dashboard = json.loads((DASHBOARDS / f"{name}.json").read_text())
    panels = dashboard["panels"]
    height_of_grid = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    # Inches: of a column and a row of Grafana's grid, and around a panel's axes.
    column, row, top = 0.5, 0.27, 0.25
    width, height = 24 * column, height_of_grid * row + top
    figure = plt.figure(figsize=(width, height))
    for panel in panels:
        at = panel["gridPos"]
        if panel["type"] == "row":
            figure.text(0.01, 1 - (top + (at["y"] + 0.9) * row) / height, panel["title"], fontsize=9, weight="bold")
            continue
        left, bottom = at["x"] * column + 0.5, height - top - (at["y"] + at["h"]) * row + 0.2
        box = (left / width, bottom / height, (at["w"] * column - 0.6) / width, (at["h"] * row - 0.45) / height)
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], fontsize=8, loc="left")
        DRAW[panel["type"]](axes, prometheus, panel, panel["fieldConfig"]["defaults"]["unit"])
    figure.text(0.01, 1 - 0.08 / height, dashboard["title"], fontsize=10, va="top")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=85)
    plt.close(figure)
    # Few colours make a small file.
    Image.open(drawn).convert("RGB").quantize(128).save(pathlib.Path(folder) / f"{name}.png", optimize=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    for name in sys.argv[3:] or sorted(path.stem for path in DASHBOARDS.glob("*.json")):
        draw(sys.argv[1], name, sys.argv[2])
