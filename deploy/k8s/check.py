#!/usr/bin/env python3
"""Holds deploy/k8s to Kubernetes's schemas, without a cluster.

    .posthorn/venv/bin/python deploy/k8s/check.py [--crds FOLDER]

What `kubectl kustomize` makes of each overlay is checked where there is a kubectl; each file by
itself in any case. Custom resources (KEDA's, the operators') are checked only with --crds: a folder
of their CustomResourceDefinitions, which their projects publish. Without it they are named as
unchecked.
"""

import argparse
import pathlib
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
    wrong, checked, unchecked = [], 0, set()
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
