#!/bin/sh
# Stands in for the entry point of the image rabbitmq:4.0-management: the same variables, Debian's RabbitMQ.
set -eu
export PATH=/usr/lib/rabbitmq/bin:$PATH HOME=/var/lib/rabbitmq
[ $# -eq 0 ] || exec "$@"
if [ "$(id -u)" = 0 ]; then
    chown -R rabbitmq: /var/lib/rabbitmq
    mkdir -p /etc/rabbitmq/conf.d
    {
        echo "default_user = $RABBITMQ_DEFAULT_USER"
        echo "default_pass = $RABBITMQ_DEFAULT_PASS"
        echo "loopback_users = none"
    } >/etc/rabbitmq/conf.d/10-defaults.conf
    echo '[rabbitmq_management,rabbitmq_prometheus].' >/etc/rabbitmq/enabled_plugins
    chown -R rabbitmq: /etc/rabbitmq/conf.d/10-defaults.conf /etc/rabbitmq/enabled_plugins
    exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups "$0"
fi
export RABBITMQ_LOGS=- RUNNING_UNDER_SYSTEMD=true
exec rabbitmq-server
