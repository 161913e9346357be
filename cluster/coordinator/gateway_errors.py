"""An answer of the gateway that is not success, as an exception and as the JSON that the peer sees.

Invariants: ``kind`` is a stable word that clients may act on; ``text`` is for people and names no path of this host.
"""

from __future__ import annotations

from starlette.responses import JSONResponse


class ApiError(Exception):
    """Ends a request with ``status``; ``close`` also ends the connection (the body was not read)."""

    def __init__(self, status: int, kind: str, text: str, *, close: bool = False) -> None:
        super().__init__(f"{status} {kind}: {text}")
        self.status = status
        self.kind = kind
        self.text = text
        self.close = close

    def response(self) -> JSONResponse:
        """What the peer sees."""
        headers = {"connection": "close"} if self.close else None
        return JSONResponse({"error": self.kind, "text": self.text}, status_code=self.status, headers=headers)
