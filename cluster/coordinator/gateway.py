"""The gateway process: HTTPS for volunteers (redeem tickets, read input ranges, upload results, report failures).

Starts and ends the service; the routes are in ``gateway_routes`` (small JSON), ``gateway_inputs`` and
``gateway_uploads`` (bytes).
What it does not do: open what volunteers upload (intake does), decide on their work, or hold a private key but its own.

Invariants: it is usable when ``ready`` is called; SIGTERM ends it within seconds, whatever peers do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from muster.cluster.coordinator.gateway_inputs import InputRoute
from muster.cluster.coordinator.gateway_routes import WorkRoutes, build_app
from muster.cluster.coordinator.gateway_state import GatewayState
from muster.cluster.coordinator.gateway_uploads import UploadRoute
from muster.cluster.coordinator.http_server import HEADER_TIMEOUT_S, serve, server_context
from muster.cluster.coordinator.pki import load_secret, pool_pki
from muster.cluster.coordinator.registry import Registry
from muster.cluster.coordinator.signed_urls import UrlSigner
from muster.cluster.coordinator.tickets import TicketSigner
from muster.cluster.wan_sockets import listening_socket
from muster.errors import PoolError


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Where the pool's state is and where to listen; port 0 takes any free one.

    ``header_timeout_s``: a connection that has sent no whole request header within it is closed.
    """

    pool_dir: str
    host: str
    port: int
    header_timeout_s: float = HEADER_TIMEOUT_S


def run(config: GatewayConfig, ready: Callable[[dict[str, object]], None]) -> None:
    """Serve until SIGTERM; calls ``ready({"port": …})`` once it listens.

    Raises:
        PoolError: the address can't be used.
        ConfigError: the pool has no certificates or secrets.
    """
    pki = pool_pki(Path(config.pool_dir))
    context = server_context(pki.gateway_cert, pki.gateway_key, pki.volunteer_ca)
    registry = Registry(config.pool_dir)
    state = GatewayState(
        pool_dir=Path(config.pool_dir),
        registry=registry,
        tickets=TicketSigner(load_secret(pki.ticket_secret)),
        urls=UrlSigner(load_secret(pki.url_secret)),
    )
    app = build_app(WorkRoutes(state), InputRoute(state), UploadRoute(state))
    try:
        sock = listening_socket(config.host, config.port)
    except OSError as error:
        raise PoolError(f"gateway: can't listen on {config.host}:{config.port}: {error.strerror}") from None
    port = sock.getsockname()[1]
    try:
        serve(app, sock, context, lambda: ready({"port": port}), config.header_timeout_s)
    finally:
        state.close()
        registry.close()
