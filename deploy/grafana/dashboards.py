#!/usr/bin/env python3
"""Writes Grafana's dashboards: deploy/grafana/dashboards/*.json.

    deploy/grafana/dashboards.py            writes them
    deploy/grafana/dashboards.py --check    fails if a file isn't what this writes

Change a dashboard here, not in Grafana. A panel is one line: its title, what it
shows, its queries. Where it goes follows from the order. `tests/tests/dashboards.rs`
runs every query on real servers.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent / "dashboards"
PROMETHEUS = {"type": "prometheus", "uid": "posthorn-prometheus"}
POSTGRESQL = {"type": "grafana-postgresql-datasource", "uid": "posthorn-postgresql"}

# A webhook's id as the API and the table `stats` write it, from its uuid in the column `id`.
WEBHOOK_SUBJECT = """(SELECT 'webhook/wh_' || string_agg(substr('0123456789abcdefghjkmnpqrstvwxyz',
    substr('00' || ('x' || replace(w.id::text, '-', ''))::bit(128)::text, i * 5 + 1, 5)::bit(5)::int + 1, 1),
    '' ORDER BY i) FROM generate_series(0, 25) i)"""
# When an id was made: its first 48 bits are milliseconds since 1970.
TIME_OF = "to_timestamp(('x0000' || left(replace({0}::text, '-', ''), 12))::bit(64)::bigint / 1000.0)"


class Dashboard:
    """Panels in rows of 24 columns, placed one after the other."""

    def __init__(self, uid, title, description, variables=()):
        self.head = {
            "uid": f"posthorn-{uid}",
            "title": f"Posthorn / {title}",
            "description": description,
            "tags": ["posthorn"],
            "schemaVersion": 39,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "templating": {"list": list(variables)},
            "annotations": {"list": []},
            "links": [
                {
                    "title": "Posthorn",
                    "type": "dashboards",
                    "tags": ["posthorn"],
                    "asDropdown": True,
                    "includeVars": False,
                    "keepTime": True,
                    "targetBlank": False,
                    "icon": "external link",
                    "tooltip": "",
                    "url": "",
                }
            ],
        }
        self.file = uid
        self.panels = []
        self.x = self.y = self.height = 0

    def _place(self, width, height):
        if self.x + width > 24:
            self.x, self.y, self.height = 0, self.y + self.height, 0
        at = {"x": self.x, "y": self.y, "w": width, "h": height}
        self.x, self.height = self.x + width, max(self.height, height)
        return at

    def row(self, title):
        """A heading; what follows begins below it."""
        self.x, self.y, self.height = 0, self.y + self.height, 0
        self.panels.append(
            {
                "id": len(self.panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": self._place(24, 1),
                "panels": [],
            }
        )

    def _panel(self, kind, title, description, targets, unit, width, height, options, custom, steps=None):
        self.panels.append(
            {
                "id": len(self.panels) + 1,
                "type": kind,
                "title": title,
                "description": description,
                "datasource": targets[0]["datasource"],
                "gridPos": self._place(width, height),
                "targets": [{**target, "refId": chr(ord("A") + n)} for n, target in enumerate(targets)],
                "fieldConfig": {
                    "defaults": {
                        "unit": unit,
                        "custom": custom,
                        "thresholds": {
                            "mode": "absolute",
                            "steps": [{"color": "green", "value": None}, *(steps or [])],
                        },
                        "color": {"mode": "thresholds" if kind == "stat" else "palette-classic"},
                    },
                    "overrides": [],
                },
                "options": options,
            }
        )

    def stat(self, title, description, query, unit="short", bad=None, good=None):
        """One number. From `bad` on (or below `good`) it is red."""
        steps = [{"color": "red", "value": bad}] if bad is not None else None
        if good is not None:
            steps = [{"color": "red", "value": 0}, {"color": "green", "value": good}]
        options = {
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "auto",
            "wideLayout": True,
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        }
        target = query if isinstance(query, dict) else prometheus(query)
        self._panel("stat", title, description, [target], unit, 4, 4, options, {}, steps)

    def graph(self, title, description, *targets, unit="short", width=12, stacked=False):
        """Lines over time."""
        options = {
            "legend": {"displayMode": "table", "placement": "right", "showLegend": True, "calcs": ["lastNotNull", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
        custom = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 20 if stacked else 0,
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        }
        self._panel("timeseries", title, description, list(targets), unit, width, 8, options, custom)

    def heat(self, title, description, query, unit="s", width=12):
        """A histogram over time."""
        options = {
            "calculate": False,
            "cellGap": 1,
            "color": {
                "mode": "scheme",
                "scheme": "Oranges",
                "fill": "dark-orange",
                "scale": "exponential",
                "exponent": 0.5,
                "steps": 64,
                "reverse": False,
            },
            "cellValues": {"unit": "short"},
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-09},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
        }
        target = {**prometheus(query, "{{le}}"), "format": "heatmap"}
        self._panel("heatmap", title, description, [target], unit, width, 8, options, {})

    def table(self, title, description, target, width=12, height=8):
        """Rows of a query."""
        options = {"showHeader": True, "cellHeight": "sm", "frameIndex": 0}
        custom = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
        self._panel("table", title, description, [target], "short", width, height, options, custom)

    def write(self):
        return json.dumps({**self.head, "panels": self.panels}, indent=1, ensure_ascii=False) + "\n"


def prometheus(query, legend="__auto", instant=False):
    return {
        "datasource": PROMETHEUS,
        "expr": " ".join(query.split()),
        "legendFormat": legend,
        "range": not instant,
        "instant": instant,
        "editorMode": "code",
        "format": "table" if instant else "time_series",
    }


def sql(query, over_time=False):
    return {
        "datasource": POSTGRESQL,
        "rawSql": "\n".join(line.rstrip() for line in query.strip().splitlines()),
        "rawQuery": True,
        "editorMode": "code",
        "format": "time_series" if over_time else "table",
    }


def quantiles(metric, *shares):
    return [
        prometheus(f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket[$__rate_interval])))", f"p{share * 100:g}")
        for share in shares
    ]


def overview():
    board = Dashboard("overview", "Overview", "Is everything delivered, and in time? Begin here.")
    board.stat("Alerts firing", "Each has its section in docs/runbook.md.",
               'count(ALERTS{alertstate="firing", alertname=~"Posthorn.*", severity!="info"}) or vector(0)', bad=1)
    board.stat("Unaccounted", "Deliveries that are neither finished nor on their way. Always 0.",
               "posthorn:deliveries_unaccounted:max", bad=1)
    board.stat("Lag", "How long the oldest delivery that could be sent now has been due.",
               "posthorn:delivery_lag:seconds", "s", bad=60)
    board.stat("Attempts that fail", "Of all in five minutes, from 20 on.", "posthorn:attempt_failures:ratio_rate5m", "percentunit", bad=0.05)
    board.stat("Dead letters", "Messages that were refused or unroutable, until somebody replays or discards them.",
               "max(posthorn_dead_letters)", bad=1)
    board.stat("Dispatchers", "How many answer.", 'sum(up{job="posthorn-dispatcher"})', good=1)
    board.graph("Events and deliveries", "Events accepted, the deliveries they make, and deliveries that ended.",
                prometheus("posthorn:events_received:rate5m", "events"),
                prometheus("posthorn:deliveries_enqueued:rate5m", "deliveries made"),
                prometheus("posthorn:deliveries_finished:rate5m", "{{state}}"), unit="cps")
    board.graph("From acceptance to delivery", "Retries included: p95 is high while endpoints are down.",
                prometheus("posthorn:delivery_latency_seconds:p50_5m", "p50"),
                prometheus("posthorn:delivery_latency_seconds:p95_5m", "p95"), unit="s")
    board.graph("Attempts by outcome", "What came back.", prometheus("posthorn:attempts:rate5m > 0", "{{outcome}}"), unit="cps", stacked=True)
    board.graph("Messages by stage", "What waits in RabbitMQ. retry is a clock, not a backlog.",
                prometheus("posthorn:queue_messages:by_stage", "{{stage}}"))
    board.graph("Open deliveries by reason", "What open deliveries wait for. none: their first attempt. retry: the next attempt's time.",
                prometheus("posthorn:open_deliveries:by_reason", "{{reason}}"), stacked=True)
    board.graph("Age of the oldest open delivery, by reason", "A broken endpoint shows as endpoint_down or retry, a broken Posthorn as none.",
                prometheus("posthorn:oldest_open_delivery:seconds", "{{reason}}"), unit="s")
    board.graph("CPU", "Seconds of processor time per second.",
                prometheus('sum by (job) (rate(process_cpu_seconds_total{job=~"posthorn-ingest|posthorn-dispatcher"}[$__rate_interval]))', "{{job}}"), width=8)
    board.graph("Memory", "Resident, of the largest process.",
                prometheus('max by (job) (process_resident_memory_bytes{job=~"posthorn-ingest|posthorn-dispatcher"})', "{{job}}"), unit="bytes", width=8)
    board.graph("Lost connections", "To RabbitMQ and PostgreSQL, in five minutes.",
                prometheus("sum by (job) (increase(posthorn_amqp_reconnects_total[5m]))", "{{job}} RabbitMQ"),
                prometheus("sum by (job) (increase(posthorn_postgres_reconnects_total[5m]))", "{{job}} PostgreSQL"), width=8)
    return board


def pipeline():
    board = Dashboard("pipeline", "Delivery pipeline", "Each stage of an event's way: its rate, its time, its queue. The stages are ARCHITECTURE.md's.")
    board.row("1. Waiting for ingest")
    board.graph("Messages in the ingest and overflow queues", "Overflow: events of tenants that are set aside.",
                prometheus('posthorn:queue_messages:by_stage{stage=~"ingest|overflow"}', "{{stage}}"), width=8)
    board.graph("Wait before acceptance", "Messages by rate.", prometheus("posthorn:ingest_wait:seconds", "wait"), unit="s", width=8)
    board.graph("Tenants set aside", "Tenants whose new events go to an overflow queue.", prometheus("max(posthorn_tenants_set_aside)", "tenants"), width=8)
    board.row("2. Accepting events")
    board.graph("Events", "Taken, known already, without an id of their producer's, returned by RabbitMQ.",
                prometheus("sum(rate(posthorn_events_received_total[$__rate_interval]))", "received"),
                prometheus("sum(rate(posthorn_events_deduplicated_total[$__rate_interval]))", "known already"),
                prometheus("sum(rate(posthorn_events_without_id_total[$__rate_interval]))", "without id"),
                prometheus("sum(rate(posthorn_events_returned_total[$__rate_interval]))", "returned"), unit="cps", width=8)
    board.graph("Batch duration", "From taking a batch to acking it.", *quantiles("posthorn_ingest_batch_duration_seconds", 0.5, 0.95, 0.99), unit="s", width=8)
    board.graph("Events per batch", "Grows under load.", *quantiles("posthorn_ingest_batch_size", 0.5, 0.95), width=8)
    board.graph("Refused events by reason", "They are dead letters.",
                prometheus("sum by (reason) (rate(posthorn_events_rejected_total[$__rate_interval]))", "{{reason}}"), unit="cps", width=8)
    board.graph("Deliveries made", "One per match.", prometheus("sum(rate(posthorn_deliveries_enqueued_total[$__rate_interval]))", "deliveries"), unit="cps", width=8)
    board.graph("Webhooks in the index; filters abandoned", "An abandoned filter's webhook did not get the event.",
                prometheus("max(posthorn_subscriptions)", "webhooks"),
                prometheus("sum(increase(posthorn_filters_too_costly_total[5m]))", "filters abandoned in 5 min"), width=8)
    board.row("3. Waiting for a dispatcher")
    board.graph("Messages in the jobs queues", "By shard.",
                prometheus('max by (queue) (rabbitmq_detailed_queue_messages{queue=~"posthorn.jobs.+"})', "{{queue}}"), width=8)
    board.graph("Jobs taken", "By dispatcher.", prometheus("sum by (instance) (rate(posthorn_jobs_taken_total[$__rate_interval]))", "{{instance}}"), unit="cps", width=8)
    board.graph("Lag", "How long the oldest delivery that could be sent now has been due.", prometheus("posthorn:delivery_lag:seconds", "lag"), unit="s", width=8)
    board.row("4. Admitting jobs")
    board.graph("Put off without an attempt, by reason", "endpoint_full: no permit free; endpoint_down: circuit open.",
                prometheus("sum by (reason) (rate(posthorn_deferred_total[$__rate_interval]))", "{{reason}}"), unit="cps")
    board.graph("Jobs dropped or parked", "Stale: another copy was settled. Parked: unreadable.",
                prometheus("sum(rate(posthorn_jobs_stale_total[$__rate_interval]))", "stale"),
                prometheus("sum(rate(posthorn_jobs_parked_total[$__rate_interval]))", "parked"), unit="cps")
    board.row("5. Attempts")
    board.graph("Attempts by outcome", "What came back.", prometheus("sum by (outcome) (rate(posthorn_attempts_total[$__rate_interval])) > 0", "{{outcome}}"), unit="cps", width=8, stacked=True)
    board.graph("Attempt duration", "Until the answer was read.", *quantiles("posthorn_attempt_duration_seconds", 0.5, 0.95, 0.99), unit="s", width=8)
    board.graph("Requests in flight", "By dispatcher; at most CONCURRENCY.", prometheus("posthorn_attempts_in_flight", "{{instance}}"), width=8)
    board.row("6. Settling verdicts")
    board.graph("Finished deliveries by state", "", prometheus("sum by (state) (rate(posthorn_deliveries_finished_total[$__rate_interval]))", "{{state}}"), unit="cps", width=8)
    board.graph("Verdicts per statement", "Grows under load.", *quantiles("posthorn_settle_batch_size", 0.5, 0.95), width=8)
    board.graph("Verdicts fenced or set aside", "Fenced: another copy of the job was first. Set aside: PostgreSQL refused it.",
                prometheus("sum(increase(posthorn_settle_fenced_total[5m]))", "fenced in 5 min"),
                prometheus("sum by (what) (increase(posthorn_settlements_set_aside_total[5m]))", "{{what}} set aside in 5 min"), width=8)
    board.row("7. Retries, and what was lost")
    board.graph("Retries scheduled", "", prometheus("sum(rate(posthorn_retries_scheduled_total[$__rate_interval]))", "retries"), unit="cps", width=8)
    board.graph("Messages in delay queues", "By delay.",
                prometheus('sum by (delay) (label_replace(max by (queue) (rabbitmq_detailed_queue_messages{queue=~"posthorn.retry.+"}), "delay", "$1", "queue", ".*v1.(.*)"))', "{{delay}}"), width=8, stacked=True)
    board.graph("Put back by the sweeper", "Jobs that were lost.", prometheus("sum(increase(posthorn_sweeper_requeued_total[5m]))", "jobs in 5 min"), width=8)
    return board


def endpoints():
    board = Dashboard("endpoints", "Endpoints", "Which endpoints fail, how, and what that costs. The tables come from PostgreSQL: no tenant or webhook is a label.")
    board.stat("Attempts that fail", "In five minutes.", "posthorn:attempt_failures:ratio_rate5m", "percentunit", bad=0.05)
    board.stat("Without an answer", "No address, no connection, no TLS, not allowed, no answer in time.", "posthorn:attempts_unanswered:ratio_rate5m", "percentunit", bad=0.5)
    board.stat("p95 answer", "In five minutes.", "posthorn:attempt_duration_seconds:p95_5m", "s", bad=5)
    board.stat("Waiting for one that is down", "Deliveries.", 'posthorn:open_deliveries:by_reason{reason="endpoint_down"}', bad=1)
    board.stat("Circuits opened", "In an hour, counted by each dispatcher.", "sum(increase(posthorn_circuits_opened_total[1h]))")
    board.stat("Webhooks disabled", "In a day.", "sum(increase(posthorn_webhooks_disabled_total[1d]))", bad=1)
    board.graph("Attempts by outcome", "", prometheus("posthorn:attempts:rate5m > 0", "{{outcome}}"), unit="cps", stacked=True)
    board.heat("Attempt duration", "How many attempts took how long.", "sum by (le) (increase(posthorn_attempt_duration_seconds_bucket[$__rate_interval]))")
    board.graph("Open deliveries by reason", "", prometheus("posthorn:open_deliveries:by_reason", "{{reason}}"), stacked=True)
    board.graph("Put off without an attempt, by reason", "", prometheus("posthorn:deferred:rate5m", "{{reason}}"), unit="cps")
    board.table("Webhooks with the most failed attempts", "Whole quarters of an hour in the chosen time.", sql("""
SELECT substr(subject, 9) AS webhook, sum(a.all_attempts) AS attempts, sum(a.all_attempts - outcomes[1]) AS failed,
    round(100.0 * sum(a.all_attempts - outcomes[1]) / nullif(sum(a.all_attempts), 0), 1) AS "failed %",
    sum(response_ms) / nullif(sum(a.answered), 0) AS "mean ms", max(last_delivered_at) AS "last delivered"
FROM stats, LATERAL (SELECT (SELECT sum(x) FROM unnest(outcomes) x) AS all_attempts,
    (SELECT sum(x) FROM unnest(response_times) x) AS answered) a
WHERE subject LIKE 'webhook/%' AND $__timeFilter(quarter)
GROUP BY subject HAVING sum(a.all_attempts - outcomes[1]) > 0 ORDER BY failed DESC LIMIT 20"""))
    board.table("Webhooks that fail since", "Every attempt has failed since then. WEBHOOK_DISABLE_AFTER disables them.", sql("""
SELECT substr(subject, 9) AS webhook, since, now() - since AS "for" FROM troubles ORDER BY since LIMIT 50"""))
    board.table("Disabled webhooks", "By Posthorn, newest first.", sql(f"""
SELECT tenant, substr({WEBHOOK_SUBJECT}, 9) AS webhook, key, disabled_reason AS reason, updated_at AS since
FROM webhooks w WHERE status = 'disabled' ORDER BY updated_at DESC LIMIT 50"""), width=24)
    return board


def rabbitmq():
    board = Dashboard("rabbitmq", "RabbitMQ", "The broker, by its own exporter (plugin rabbitmq_prometheus).")
    board.stat("Nodes", "That answer.", 'sum(up{job="posthorn-rabbitmq"})', good=1)
    board.stat("Alarms", "Memory, disk or file descriptors: publishers are blocked.",
               'sum({__name__=~"rabbitmq_alarms_(memory_used_watermark|free_disk_space_watermark|file_descriptor_limit)"})', bad=1)
    board.stat("Publishers blocked", "As Posthorn's processes see it.", "max(posthorn_amqp_blocked)", bad=1)
    board.stat("Messages", "In all queues of Posthorn's.", "sum(posthorn:queue_messages:by_stage)")
    board.stat("Dead-lettering", "Messages that left their queue and are not confirmed in the next. 0 but for moments.", "posthorn:dead_lettering:messages", bad=100)
    board.stat("Disk in a day", "Free space above RabbitMQ's limit, by the last six hours.", "posthorn:broker_disk_available_in_1d:bytes", "bytes")
    board.graph("Messages by queue", "", prometheus('max by (queue) (rabbitmq_detailed_queue_messages{queue=~"posthorn.+"})', "{{queue}}"))
    board.graph("Consumers by queue", "Delay queues have none.", prometheus('max by (queue) (rabbitmq_detailed_queue_consumers{queue!~"posthorn.retry.+"})', "{{queue}}"))
    board.graph("Message rates", "",
                prometheus("sum(rate(rabbitmq_global_messages_received_total[$__rate_interval]))", "published"),
                prometheus("sum(rate(rabbitmq_global_messages_confirmed_total[$__rate_interval]))", "confirmed"),
                prometheus("sum(rate(rabbitmq_global_messages_delivered_total[$__rate_interval]))", "delivered"),
                prometheus("sum(rate(rabbitmq_global_messages_acknowledged_total[$__rate_interval]))", "acknowledged"),
                prometheus("sum(rate(rabbitmq_global_messages_redelivered_total[$__rate_interval]))", "redelivered"), unit="cps")
    board.graph("Dead-lettered at least once", "Delays that are over (expired), refused messages, delivery limits, and confirms.",
                prometheus('sum(rate(rabbitmq_global_messages_dead_lettered_expired_total{dead_letter_strategy="at_least_once"}[$__rate_interval]))', "expired"),
                prometheus('sum(rate(rabbitmq_global_messages_dead_lettered_rejected_total{dead_letter_strategy="at_least_once"}[$__rate_interval]))', "rejected"),
                prometheus('sum(rate(rabbitmq_global_messages_dead_lettered_delivery_limit_total{dead_letter_strategy="at_least_once"}[$__rate_interval]))', "delivery limit"),
                prometheus("sum(rate(rabbitmq_global_messages_dead_lettered_confirmed_total[$__rate_interval]))", "confirmed"), unit="cps")
    board.graph("Memory", "Of the node; it blocks publishers at the limit.",
                prometheus("rabbitmq_process_resident_memory_bytes", "{{instance}}"),
                prometheus("rabbitmq_resident_memory_limit_bytes", "{{instance}} limit"), unit="bytes", width=8)
    board.graph("Disk", "Free; it blocks publishers at the limit.",
                prometheus("rabbitmq_disk_space_available_bytes", "{{instance}}"),
                prometheus("rabbitmq_disk_space_available_limit_bytes", "{{instance}} limit"), unit="bytes", width=8)
    board.graph("Time to commit", "Of quorum queues' logs: what a confirm waits for.", prometheus("max by (instance) (rabbitmq_raft_entry_commit_latency_seconds)", "{{instance}}"), unit="s", width=8)
    board.graph("Connections and channels", "",
                prometheus("sum(rabbitmq_connections)", "connections"), prometheus("sum(rabbitmq_channels)", "channels"), width=8)
    board.graph("Connections opened", "Many: clients reconnect.", prometheus("sum(rate(rabbitmq_connections_opened_total[$__rate_interval]))", "opened"), unit="cps", width=8)
    board.graph("Unroutable messages", "Returned to their publisher, or dropped.",
                prometheus("sum(rate(rabbitmq_global_messages_unroutable_returned_total[$__rate_interval]))", "returned"),
                prometheus("sum(rate(rabbitmq_global_messages_unroutable_dropped_total[$__rate_interval]))", "dropped"), unit="cps", width=8)
    return board


def postgresql():
    board = Dashboard("postgresql", "PostgreSQL", "The database, by postgres_exporter, and the log in it.")
    board.stat("Up", "As its exporter sees it.", "min(pg_up)", good=1)
    board.stat("Connections taken", "Of max_connections.", "max(sum by (instance) (pg_stat_activity_count) / on (instance) pg_settings_max_connections)", "percentunit", bad=0.8)
    board.stat("Longest transaction", "", "max(pg_stat_activity_max_tx_duration)", "s", bad=300)
    board.stat("Log now", "Events, deliveries and attempts, with their indexes.", "max(posthorn_storage_bytes)", "bytes")
    board.stat("Log when all days are there", "At the pace of the last seven days.", "max(posthorn_storage_forecast_bytes)", "bytes")
    board.stat("Days ahead", "Partitions that exist after today: 14 are made.", "max(posthorn_partitions_ahead)", good=7)
    board.graph("Transactions", "",
                prometheus('sum(rate(pg_stat_database_xact_commit[$__rate_interval]))', "committed"),
                prometheus('sum(rate(pg_stat_database_xact_rollback[$__rate_interval]))', "rolled back"), unit="cps", width=8)
    board.graph("Rows", "",
                prometheus('sum(rate(pg_stat_database_tup_inserted[$__rate_interval]))', "inserted"),
                prometheus('sum(rate(pg_stat_database_tup_updated[$__rate_interval]))', "updated"),
                prometheus('sum(rate(pg_stat_database_tup_deleted[$__rate_interval]))', "deleted"), unit="cps", width=8)
    board.graph("Connections by state", "", prometheus("sum by (state) (pg_stat_activity_count)", "{{state}}"), width=8, stacked=True)
    board.graph("Read from memory", "Share of blocks that were in shared_buffers.",
                prometheus("sum(rate(pg_stat_database_blks_hit[$__rate_interval])) / (sum(rate(pg_stat_database_blks_hit[$__rate_interval])) + sum(rate(pg_stat_database_blks_read[$__rate_interval])))", "hit"), unit="percentunit", width=8)
    board.graph("Locks", "", prometheus("sum by (mode) (pg_locks_count) > 0", "{{mode}}"), width=8)
    board.graph("Deadlocks and temporary files", "Both are 0 in Posthorn's own work.",
                prometheus("sum(increase(pg_stat_database_deadlocks[5m]))", "deadlocks in 5 min"),
                prometheus("sum(increase(pg_stat_database_temp_files[5m]))", "temporary files in 5 min"), width=8)
    board.graph("Disk", "Free now, and in four days by the pace of the last six hours.",
                prometheus("posthorn:disk_available:bytes", "free"),
                prometheus("posthorn:disk_available_in_4d:bytes", "in four days"), unit="bytes", width=8)
    board.graph("What the log will still take", "As a part of what is free. Above 1 it doesn't fit.", prometheus("posthorn:storage_forecast:ratio", "part"), unit="percentunit", width=8)
    board.graph("Connections opened by Posthorn", "", prometheus("sum by (job) (rate(posthorn_postgres_connects_total[$__rate_interval]))", "{{job}}"), unit="cps", width=8)
    board.table("The log's days", "Size of each day's partitions with their indexes.", sql("""
SELECT to_date(right(c.relname, 8), 'YYYYMMDD')::text AS day, sum(pg_total_relation_size(c.oid))::bigint AS bytes,
    sum(greatest(c.reltuples, 0))::bigint AS "rows, about"
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent IN ('events'::regclass, 'deliveries'::regclass, 'attempts'::regclass)
GROUP BY 1 ORDER BY 1 DESC"""))
    board.table("Tables with the most dead rows", "Autovacuum takes them away.", sql("""
SELECT relname AS "table", n_live_tup AS live, n_dead_tup AS dead, last_autovacuum, last_autoanalyze
FROM pg_stat_user_tables ORDER BY n_dead_tup DESC LIMIT 20"""))
    return board


def tenant():
    variable = {
        "name": "tenant",
        "label": "Tenant",
        "type": "query",
        "datasource": POSTGRESQL,
        "query": "SELECT id FROM tenants ORDER BY id",
        "refresh": 1,
        "regex": "",
        "sort": 0,
        "multi": False,
        "includeAll": False,
        "hide": 0,
        "skipUrlSync": False,
        "options": [],
    }
    board = Dashboard("tenant", "One tenant", "What one tenant's support asks: from PostgreSQL, in whole quarters of an hour.", [variable])
    of_tenant = "subject = 'tenant/' || ${tenant:sqlstring} AND $__timeFilter(quarter)"
    webhooks = "SELECT id FROM webhooks WHERE tenant = ${tenant:sqlstring}"
    board.stat("Attempts", "In the chosen time.", sql(f"SELECT coalesce(sum((SELECT sum(x) FROM unnest(outcomes) x)), 0)::bigint AS attempts FROM stats WHERE {of_tenant}"))
    board.stat("Delivered", "Of all deliveries that ended.", sql(f"SELECT sum(delivered)::float8 / nullif(sum(delivered + failed + expired), 0) AS delivered FROM stats WHERE {of_tenant}"), "percentunit")
    board.stat("At the first attempt", "Of all that were delivered.", sql(f"SELECT sum(delivered_at_once)::float8 / nullif(sum(delivered), 0) AS at_once FROM stats WHERE {of_tenant}"), "percentunit")
    board.stat("Mean answer", "", sql(f"SELECT sum(response_ms)::float8 / 1000 / nullif(sum((SELECT sum(x) FROM unnest(response_times) x)), 0) AS mean FROM stats WHERE {of_tenant}"), "s")
    board.stat("p95 answer", "The bucket that it is in; buckets are √2 apart.", sql(f"""
WITH counted AS (
    SELECT i, sum(n) AS n FROM stats, unnest(response_times) WITH ORDINALITY AS bucket (n, i) WHERE {of_tenant} GROUP BY i
), running AS (
    SELECT i, sum(n) OVER (ORDER BY i) AS upto, sum(n) OVER () AS total FROM counted
)
SELECT min(power(2, (i - 1) / 2.0)) / 1000 AS p95 FROM running WHERE total > 0 AND upto >= 0.95 * total"""), "s")
    board.stat("Webhooks", "Active ones.", sql("SELECT count(*) AS active FROM webhooks WHERE tenant = ${tenant:sqlstring} AND status = 'active'"))
    board.graph("Attempts by outcome", "A quarter of an hour each.", sql(f"""
SELECT quarter AS time, sum(outcomes[1]) AS success, sum(outcomes[2]) AS redirect, sum(outcomes[3]) AS client_error,
    sum(outcomes[4]) AS server_error, sum(outcomes[5]) AS forbidden, sum(outcomes[6]) AS dns, sum(outcomes[7]) AS connect,
    sum(outcomes[8]) AS tls, sum(outcomes[9]) AS timeout, sum(outcomes[10]) AS broken
FROM stats WHERE {of_tenant} GROUP BY 1 ORDER BY 1""", over_time=True), stacked=True)
    board.graph("Deliveries that ended", "A quarter of an hour each.", sql(f"""
SELECT quarter AS time, sum(delivered) AS delivered, sum(failed) AS failed, sum(expired) AS expired, sum(cancelled) AS cancelled
FROM stats WHERE {of_tenant} GROUP BY 1 ORDER BY 1""", over_time=True), stacked=True)
    board.table("Webhooks", "", sql(f"""
SELECT substr(subject, 9) AS webhook, w.key, w.status, s.attempts, s.failed,
    round(100.0 * s.failed / nullif(s.attempts, 0), 1) AS "failed %", s.last_delivered_at AS "last delivered"
FROM (SELECT w.*, {WEBHOOK_SUBJECT} AS subject FROM
        (SELECT id, key, status FROM webhooks WHERE tenant = ${{tenant:sqlstring}} AND status <> 'deleted' ORDER BY id LIMIT 1000) w) w
LEFT JOIN LATERAL (SELECT sum((SELECT sum(x) FROM unnest(outcomes) x)) AS attempts,
        sum((SELECT sum(x) FROM unnest(outcomes) x) - outcomes[1]) AS failed, max(last_delivered_at) AS last_delivered_at
    FROM stats WHERE stats.subject = w.subject AND $__timeFilter(quarter)) s ON true
ORDER BY s.failed DESC NULLS LAST LIMIT 100"""), width=24)
    board.table("Open deliveries", "What they wait for. At most 10,000 are counted.", sql(f"""
SELECT coalesce(deferred_because, CASE state WHEN 'retrying' THEN 'retry' ELSE 'none' END) AS "waits for",
    count(*) AS deliveries, min(due_at) AS "next due"
FROM (SELECT deferred_because, state, due_at FROM deliveries
      WHERE webhook_id IN ({webhooks}) AND state IN ('queued', 'retrying') LIMIT 10000) open GROUP BY 1 ORDER BY 2 DESC"""), width=8)
    board.table("Deliveries in trouble", "The last 50 that were retried or given up.", sql(f"""
SELECT {TIME_OF.format("id")} AS accepted, event_type AS type, state, attempts, status_code AS status
FROM deliveries WHERE webhook_id IN ({webhooks}) AND state IN ('retrying', 'failed', 'expired', 'cancelled')
ORDER BY id DESC LIMIT 50"""), width=8)
    board.table("Dead letters", "Refused or unroutable messages of this tenant, by reason.", sql("""
SELECT reason, count(*) AS messages FROM (SELECT left(reason, 100) AS reason FROM dead_letters WHERE owner = ${tenant:sqlstring} LIMIT 10000) l
GROUP BY 1 ORDER BY 2 DESC LIMIT 50"""), width=8)
    return board


def main():
    check = "--check" in sys.argv[1:]
    stale = []
    HERE.mkdir(exist_ok=True)
    boards = [overview(), pipeline(), endpoints(), rabbitmq(), postgresql(), tenant()]
    for board in boards:
        file, text = HERE / f"{board.file}.json", board.write()
        if check and (not file.exists() or file.read_text() != text):
            stale.append(file.name)
        elif not check:
            file.write_text(text)
    if stale:
        sys.exit(f"{', '.join(stale)}: not what deploy/grafana/dashboards.py writes; run it")


if __name__ == "__main__":
    main()
