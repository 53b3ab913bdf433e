#!/bin/sh
# Checks what is in deploy/ without running it: Prometheus's rules and their cases; that the
# dashboards are what deploy/grafana/dashboards.py writes and what Grafana's schema allows; that
# docker-compose.yml can start; that Kubernetes's schemas allow what is in deploy/k8s; that
# docs/scaling.md's tables follow from its costs.
set -eu
cd "$(dirname "$0")/.."

promtool check rules deploy/prometheus/recording.yml deploy/prometheus/alerts.yml deploy/prometheus/webhooks.yml
promtool check config --syntax-only deploy/prometheus/prometheus.yml
promtool test rules deploy/prometheus/tests.yml deploy/prometheus/webhooks_tests.yml
deploy/grafana/dashboards.py --check
deploy/capacity.py --check
.posthorn/venv/bin/python deploy/compose.py
.posthorn/venv/bin/python deploy/k8s/check.py
node deploy/grafana/schema.js .posthorn/node_modules deploy/grafana/dashboards/*.json
