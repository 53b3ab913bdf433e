#!/usr/bin/env python3
"""Holds docker-compose.yml to what a plain `docker compose up` needs, without a container engine.

    .posthorn/venv/bin/python deploy/compose.py

What a service waits for must be able to happen: a service that others wait for to be healthy has a
health check, and one that others wait for to be completed ends. Nothing waits in a circle. All
variables without a default are made by deploy/init. Files that are mounted are there, and ports are open
to this machine alone. Nobody gains privileges, logs are bounded, and Posthorn's memory is.
"""

import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).parent.parent
# Grace periods must be longer than what a process needs to stop: SHUTDOWN_GRACE, a request's time.
GRACES = {"dispatcher": 30, "api": 60}


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def waits_for(name, services):
    """What a service waits for, as name → condition."""
    needs = services[name].get("depends_on", {})
    return needs if isinstance(needs, dict) else dict.fromkeys(needs, "service_started")


def circle(name, services, above=()):
    if name in above:
        return [*above[above.index(name):], name]
    for other in waits_for(name, services):
        found = other in services and circle(other, services, (*above, name))
        if found:
            return found
    return None


def of_dependencies(services):
    for name in services:
        for other, need in waits_for(name, services).items():
            condition = need["condition"] if isinstance(need, dict) else need
            of = services.get(other)
            if of is None:
                yield f"{name} waits for {other}, which isn't a service"
            elif condition == "service_healthy" and "healthcheck" not in of:
                yield f"{name} waits until {other} is healthy, but {other} has no health check"
            elif condition == "service_completed_successfully" and of.get("restart") not in (None, "no", "on-failure"):
                yield f"{name} waits until {other} has ended, but {other} is restarted then"
            elif condition == "service_started":
                yield f"{name} waits for {other} to be started only, which says nothing"
        found = circle(name, services)
        if found:
            yield f"these wait for each other: {' → '.join(found)}"
    for name, service in services.items():
        # Posthorn's processes wait for the schema by themselves, but say so in their logs.
        if service.get("build") and name != "migrate" and "migrate" not in waits_for(name, services):
            yield f"{name} doesn't wait for migrate"


def of_files(services):
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./") and not (ROOT / source).exists():
                yield f"{name} mounts {source}, which isn't there"
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                yield f"{name} opens {port} to others than this machine"
        image = service["image"]
        if not service.get("build") and not re.search(r":[\w.-]*\d[\w.-]*$", image):
            yield f"{name}: {image} names no version"
        least = GRACES.get(name)
        if least and seconds(service.get("stop_grace_period", "10s")) <= least:
            yield f"{name}: stop_grace_period must be longer than {least} s"
        if "healthcheck" not in service and name in GRACES:
            yield f"{name} has no health check"


def of_bounds(services):
    for name, service in services.items():
        if "no-new-privileges:true" not in service.get("security_opt", []):
            yield f"{name} may gain privileges"
        if "max-size" not in service.get("logging", {}).get("options", {}):
            yield f"{name}'s log has no bound"
        if service.get("build") and not {"mem_limit", "pids_limit", "cap_drop"} <= service.keys():
            yield f"{name} lacks one of mem_limit, pids_limit and cap_drop"


def of_variables(text):
    made = set(re.findall(r"^add (\w+) ", (ROOT / "deploy/init").read_text(), re.M))
    needed = set(re.findall(r"\$\{(\w+):\?", text))
    for name in sorted(needed - made):
        yield f"{name} is needed, but deploy/init doesn't make it"
    for name in sorted(made - needed):
        yield f"deploy/init makes {name}, which nothing needs"
    for name in sorted(set(re.findall(r"\$\{(\w+)\}", text))):
        yield f"{name} has neither a default nor a message"


def main():
    text = (ROOT / "docker-compose.yml").read_text()
    document = yaml.safe_load(text)
    services = document["services"]
    wrong = [*of_dependencies(services), *of_files(services), *of_bounds(services), *of_variables(text)]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if not source.startswith((".", "/")) and source not in document["volumes"]:
                wrong.append(f"{name} uses the volume {source}, which isn't declared")
    print(f"compose: {len(services)} services checked")
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
