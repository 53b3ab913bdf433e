#!/bin/sh
# Prints deploy/prometheus's rules as PrometheusRules, for the Prometheus Operator.
set -eu
cd "$(dirname "$0")/../prometheus"
for name in recording alerts; do
    printf -- '---\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: posthorn-%s\nspec:\n' "$name"
    sed 's/^/  /' "$name.yml"
done
