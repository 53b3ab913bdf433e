#!/bin/sh
# Prints deploy/prometheus's rules as PrometheusRules, for the Prometheus Operator. Those of webhooks do
# nothing unless metrics of single webhooks are scraped: docs/kubernetes.md.
set -eu
cd "$(dirname "$0")/../prometheus"
for name in recording alerts webhooks; do
    printf -- '---\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: posthorn-%s\nspec:\n' "$name"
    sed 's/^/  /' "$name.yml"
done
