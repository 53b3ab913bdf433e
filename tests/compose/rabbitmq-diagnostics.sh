#!/bin/sh
# Debian's wrapper wants root or the user rabbitmq, with the server's cookie.
exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups env HOME=/var/lib/rabbitmq \
    /usr/lib/rabbitmq/bin/rabbitmq-diagnostics "$@"
