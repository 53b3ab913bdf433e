#!/usr/bin/env python3
"""The model behind docs/scaling.md: from measured costs to what an amount of deliveries needs.

    deploy/capacity.py                  writes the tables of docs/scaling.md anew
    deploy/capacity.py --check          fails if they aren't what this writes
    deploy/capacity.py 5000000 --per-event 3 --answer 0.5

The last one prints the table for deliveries of your own: so many a day, for so many webhooks an event,
with endpoints that answer after so many seconds. Change a cost here when it was measured anew.
"""

import argparse
import pathlib
import re
import sys

PAGE = pathlib.Path(__file__).parent.parent / "docs/scaling.md"

# With full batches, of all servers, in milliseconds of processor time: docs/performance.md, "Bundles".
# (An event with one delivery, an event with ten.)
FULL = {
    "accepted: matched, written, its jobs in RabbitMQ": (0.128, 0.323),
    "accepted over AMQP and delivered": (0.235, 10 * 0.165),
    "accepted over HTTP and delivered": (0.251, 10 * 0.163),
}
# With small batches, before jobs shared messages, by process: (of an event, of each delivery).
SMALL = {
    "intake": (0.09, 0.07),
    "dispatchers": (0.03, 0.15),
    "PostgreSQL": (0.13, 0.29),
    "RabbitMQ": (0.32, 0.26),
}
# Kilobytes, with events of 460 bytes: (of an event, of each delivery). RabbitMQ's before jobs shared
# messages.
WAL = (0.8, 1.6)
LOG = (0.7, 0.9)
BROKER_WRITES = (2.8, 2.5)
# A request with its headers and TLS, and the payload.
REQUEST = 1.46
# The most jobs in one message.
BUNDLE = 16
# The load at the peak, as a multiple of the day's average.
PEAK = 3
CONCURRENCY = 512


def split(one, ten):
    """(Of the event, of each delivery), from events with one and with ten deliveries."""
    delivery = (ten - one) / 9
    return one - delivery, delivery


def round_to(value, digits=2):
    """So many significant digits: the model is no more exact."""
    text = f"{value:.{digits}g}"
    return f"{float(text):,.10g}"


def table(deliveries, per_event=1.0, answers=(0.2, 1.0)):
    rate = deliveries / 86_400
    peak = rate * PEAK
    events = peak / per_event

    def at_peak(cost):
        return events * cost[0] + peak * cost[1]

    def cores(name):
        return round_to(at_peak(SMALL[name]) / 1000)

    def flight(seconds):
        return round_to(peak * seconds)

    day = (deliveries / per_event * LOG[0] + deliveries * LOG[1]) / 1e6
    least = at_peak(split(*FULL["accepted over AMQP and delivered"])) / 1000
    most = sum(at_peak(cost) for cost in SMALL.values()) / 1000
    rows = [
        ("all processes", f"{round_to(least)} cores with full batches, up to {round_to(most)} with small ones"),
        (
            "RabbitMQ",
            f"up to {cores('RabbitMQ')} cores, up to {round_to(at_peak(BROKER_WRITES) / 1000)} MB/s written by each "
            f"node with a replica, {round_to(events + peak / BUNDLE)} to {round_to(events + peak)} messages/s",
        ),
        (
            "PostgreSQL",
            f"up to {cores('PostgreSQL')} cores, {round_to(at_peak(WAL) / 1000)} MB/s of WAL; the log takes "
            f"{round_to(day)} GB a day: {round_to(day * 30 / 1000)} TB in 30 days, {round_to(day * 8 / 1000)} TB in 8",
        ),
        ("intakes", f"up to {cores('intake')} cores"),
        (
            "dispatchers",
            f"up to {cores('dispatchers')} cores. Requests in flight: "
            + ", ".join(f"{flight(seconds)} if an endpoint takes {seconds:g} s" for seconds in answers)
            + f": {' to '.join(str(max(2, -(-int(peak * seconds) // CONCURRENCY))) for seconds in answers)} dispatchers with "
            f"a `CONCURRENCY` of {CONCURRENCY}",
        ),
        ("network out", f"{round_to(peak * REQUEST / 1000)} MB/s"),
    ]
    lines = [f"{round_to(rate, 3)} deliveries/s on average, {round_to(peak, 3)} at the peak:", "", "| | needs at the peak |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {needs} |" for name, needs in rows])


def costs():
    lines = ["| processor time of all servers | event with 1 delivery | event with 10 | of the event | of each delivery |", "|---|---|---|---|---|"]
    for name, (one, ten) in FULL.items():
        event, delivery = split(one, ten)
        lines.append(f"| {name} | {one:.3f} ms | {ten:.2f} ms | {event:.3f} ms | {delivery:.3f} ms |")
    lines += ["", "| small batches, before bundles | of the event | of each delivery |", "|---|---|---|"]
    lines += [f"| {name}, processor time | {event:.2f} ms | {delivery:.2f} ms |" for name, (event, delivery) in SMALL.items()]
    for name, (event, delivery) in (
        ("PostgreSQL, log with indexes", LOG),
        ("PostgreSQL, WAL", WAL),
        ("RabbitMQ, written to disk", BROKER_WRITES),
    ):
        lines.append(f"| {name} | {event} KB | {delivery} KB |")
    return "\n".join(lines)


def filled(page):
    """The page with its tables as the model has them."""
    made = {"costs": costs(), "100000000": table(1e8), "1000000000": table(1e9)}
    for name, text in made.items():
        pattern = rf"(<!-- capacity.py: {name} -->\n).*?(<!-- end -->)"
        page, found = re.subn(pattern, lambda found: f"{found[1]}{text}\n{found[2]}", page, flags=re.S)
        if found != 1:
            sys.exit(f"capacity: docs/scaling.md has {found} places for the table `{name}`")
    return page


def main():
    arguments = argparse.ArgumentParser(description="What an amount of deliveries needs.")
    arguments.add_argument("deliveries", nargs="?", type=float, help="deliveries a day")
    arguments.add_argument("--per-event", type=float, default=1.0)
    arguments.add_argument("--answer", type=float, action="append", help="seconds that an endpoint takes")
    arguments.add_argument("--check", action="store_true")
    given = arguments.parse_args()
    if given.deliveries:
        print(table(given.deliveries, given.per_event, tuple(given.answer or (0.2, 1.0))))
        return
    page = PAGE.read_text()
    if not given.check:
        PAGE.write_text(filled(page))
    elif filled(page) != page:
        sys.exit("capacity: the tables of docs/scaling.md aren't the model's: run deploy/capacity.py")


if __name__ == "__main__":
    main()
