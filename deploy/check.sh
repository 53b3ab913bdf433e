#!/bin/sh
# Checks what is in deploy/ without running it: Prometheus's rules and their cases, and that the
# dashboards are what deploy/grafana/dashboards.py writes and what Grafana's schema allows.
set -eu
cd "$(dirname "$0")/.."

promtool check rules deploy/prometheus/recording.yml deploy/prometheus/alerts.yml
promtool check config --syntax-only deploy/prometheus/prometheus.yml
promtool test rules deploy/prometheus/tests.yml
deploy/grafana/dashboards.py --check
node deploy/grafana/schema.js .posthorn/node_modules deploy/grafana/dashboards/*.json
