#!/usr/bin/env python3
"""Holds deploy/k8s to Kubernetes's schemas, and its numbers to each other, without a cluster.

    .posthorn/venv/bin/python deploy/k8s/check.py [--crds FOLDER]

What `kubectl kustomize` makes of each overlay is checked where there is a kubectl; each file by
itself in any case. Custom resources (KEDA's, the operators') are checked only with --crds: a folder
of their CustomResourceDefinitions, which their projects publish. Without it they are named as
unchecked.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys

import jsonschema
import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).parent
# The oldest Kubernetes that is supported (preStop's `sleep`), and the newest that is known here.
VERSIONS = ("1.30", "1.37")


def closed(schema):
    """The schema of a custom resource, refusing members that it doesn't name."""
    if isinstance(schema, list):
        return [closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(value) for name, value in schema.items()}
    is_open = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if isinstance(made.get("properties"), dict) and not is_open:
        made["additionalProperties"] = False
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def custom_schemas(folder):
    """(apiVersion, kind) → schema, of the definitions in a folder."""
    found = {}
    for file in sorted(pathlib.Path(folder).glob("*.yaml")) if folder else []:
        for document in yaml.safe_load_all(file.read_text()):
            if not document or document.get("kind") != "CustomResourceDefinition":
                continue
            for version in document["spec"]["versions"]:
                name = f"{document['spec']['group']}/{version['name']}"
                schema = closed(version["schema"]["openAPIV3Schema"])
                schema["properties"].setdefault("metadata", {}).pop("additionalProperties", None)
                found[name, document["spec"]["names"]["kind"]] = schema
    return found


def of_kind(folder, kind):
    """The resources of one kind, by name."""
    found = {}
    for file in sorted((HERE / folder).glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            if document and document["kind"] == kind:
                found[document["metadata"]["name"]] = document
    return found


# The longest that the API works on a request after it was told to stop, in seconds.
REQUEST_TIME = 60


def relations():
    """What is wrong between numbers that depend on each other."""
    settings = of_kind("base", "ConfigMap")["posthorn"]["data"]
    grace, concurrency, shards = (int(settings[name]) for name in ("SHUTDOWN_GRACE", "CONCURRENCY", "JOB_SHARDS"))
    deployments = of_kind("base", "Deployment")

    def pod(name):
        return deployments[name]["spec"]["template"]["spec"]

    ends = pod("posthorn-dispatcher")["terminationGracePeriodSeconds"]
    if ends <= grace:
        yield f"dispatcher: terminationGracePeriodSeconds {ends} must be longer than SHUTDOWN_GRACE {grace}"
    api = pod("posthorn-api")
    sleep = api["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    if api["terminationGracePeriodSeconds"] <= sleep + REQUEST_TIME:
        yield f"api: terminationGracePeriodSeconds must be longer than the preStop of {sleep} s and {REQUEST_TIME} s"
    for name, spec in ((name, pod(name)) for name in deployments):
        resources = spec["containers"][0]["resources"]
        if not all(resources.get(kind, {}).get("memory") for kind in ("requests", "limits")):
            yield f"{name}: memory has no request or no limit"
    triggers = of_kind("components/keda", "ScaledObject")["posthorn-dispatcher"]["spec"]["triggers"]
    queues = {trigger["metadata"]["queueName"]: int(trigger["metadata"]["value"]) for trigger in triggers}
    if set(queues) != {f"posthorn.jobs.v1.{shard}" for shard in range(shards)}:
        yield f"keda: JOB_SHARDS is {shards}, but the triggers are {sorted(queues)}"
    for queue, value in queues.items():
        if value * 4 != concurrency:
            yield f"keda: value {value} of {queue} must be a quarter of CONCURRENCY {concurrency}"
    version = re.search(r'^version = "(.*)"$', (HERE / "../../Cargo.toml").read_text(), re.M)[1]
    for file in ("base", "overlays/production"):
        for image in yaml.safe_load((HERE / file / "kustomization.yaml").read_text())["images"]:
            if image["newTag"] != version:
                yield f"{file}: the image's newTag is {image['newTag']}, this is version {version}"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--crds")
    custom = custom_schemas(arguments.parse_args().crds)
    sources = {}
    for file in sorted([*HERE.glob("base/*.yaml"), *HERE.glob("components/*/*.yaml")]):
        if file.name != "kustomization.yaml":
            sources[str(file.relative_to(HERE))] = file.read_text()
    if shutil.which("kubectl"):
        for overlay in sorted(HERE.glob("overlays/*")):
            made = subprocess.run(["kubectl", "kustomize", overlay], check=True, capture_output=True, text=True)
            sources[f"overlays/{overlay.name}"] = made.stdout
    else:
        print("k8s: no kubectl here, so the overlays were NOT built: each file is checked by itself")
    wrong, checked, unchecked = list(relations()), 0, set()
    for name, text in sources.items():
        for document in yaml.safe_load_all(text):
            kind = (document["apiVersion"], document["kind"])
            try:
                if kind in custom:
                    jsonschema.validate(document, custom[kind])
                elif "." in kind[0] and not kind[0].split("/")[0].endswith(".k8s.io"):
                    unchecked.add("{1} ({0})".format(*kind))
                    continue
                else:
                    for version in VERSIONS:
                        kubernetes_validate.validate(document, version, strict=True)
                checked += 1
            except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
                where = ".".join(map(str, error.path))
                wrong.append(f"{name}: {kind[1]} {document['metadata']['name']}: {where}: {error.message[:300]}")
    print(f"k8s: {checked} resources checked, for Kubernetes {' and '.join(VERSIONS)}")
    if unchecked:
        print(f"k8s: NOT checked, their schemas aren't here: {', '.join(sorted(unchecked))}")
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
