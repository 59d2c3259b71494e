"""Responses of gateways, tunnels, captive portals and content delivery networks in place of an UMRGEN server's.

`docs/retrieval.md` has them as a table. The shared vectors (`vectors/make.py`), the simulation and the tests of wild
responses use them.
"""

from typing import NamedTuple

__all__ = ["GATEWAY_RESPONSES", "GatewayResponse", "table"]

TEXT, HTML, JSON, XML = "text/plain; charset=utf-8", "text/html", "application/json", "application/xml"


class GatewayResponse(NamedTuple):
    """One response, without its time: each may come at any moment of a job."""

    sender: str
    """Who sends it, and when."""
    status: int
    content_type: str
    body: str
    location: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of the response."""
        headers = {"Content-Type": self.content_type} if self.content_type else {}
        return headers | ({"Location": self.location} if self.location else {})

    @property
    def name(self) -> str:
        return f"{self.status} of {self.sender}"


G = GatewayResponse
GATEWAY_RESPONSES = (
    # a route or a tunnel that does not exist at this moment: the server restarts
    G("Traefik without a router", 404, TEXT, "404 page not found\n"),
    G("a Kubernetes default backend", 404, TEXT, "default backend - 404"),
    G("Kong without a route", 404, JSON, '{"message":"no Route matched with those values"}'),
    G("a framework's JSON", 404, JSON, '{"detail":"Not Found"}'),
    G("a framework's JSON with a status", 404, JSON, '{"status":404,"error":"Not Found","path":"/api/v1/status"}'),
    G("a gateway's JSON with a code", 404, JSON, '{"code":"NOT_FOUND","message":"no such route"}'),
    G("a gateway's JSON with a number as code", 404, JSON, '{"code":5,"message":"Not Found"}'),
    G("a gateway's JSON with nested errors", 404, JSON, '{"error":{"code":"ResourceNotFound"}}'),
    G("Envoy without a route", 404, "", ""),
    G("a tunnel that is not connected", 404, HTML, "<!DOCTYPE html><html><body>Tunnel not found</body></html>"),
    G("nginx without a location", 404, HTML, "<html><head><title>404 Not Found</title></head></html>"),
    G("a path that was removed", 410, HTML, "<html>410 Gone</html>"),
    G("another virtual host", 421, TEXT, "Misdirected Request"),
    G("Caddy without a route", 200, "", ""),
    G("a method filter", 405, HTML, "<html>405 Not Allowed</html>"),
    G("a server without the method", 501, TEXT, "Not Implemented"),
    # a server that does not respond
    G("Traefik without a server", 503, TEXT, "no available server"),
    G("nginx before a server that is down", 502, HTML, "<html><head><title>502 Bad Gateway</title></head></html>"),
    G("HAProxy before a server that is down", 503, HTML, "<html><body><h1>503 Service Unavailable</h1></body></html>"),
    G("Envoy before a server that is down", 503, TEXT, "upstream connect error or disconnect/reset before headers"),
    G("nginx before a server that is slow", 504, HTML, "<html><head><title>504 Gateway Time-out</title></head></html>"),
    G("a load balancer that timed out", 460, "", ""),
    G("a CDN before a server that is down", 521, HTML, "<!DOCTYPE html><html>Web server is down</html>"),
    G("a CDN before a server that is slow", 524, HTML, "<!DOCTYPE html><html>A timeout occurred</html>"),
    G("a CDN's tunnel that is down", 530, TEXT, "error code: 1033"),
    G("a request that took too long", 408, HTML, "<html>408 Request Time-out</html>"),
    G("a maintenance page", 200, HTML, "<!DOCTYPE html><html>We will be back soon</html>"),
    # access control that is not the server's
    G("basic authentication", 401, HTML, "<html><head><title>401 Authorization Required</title></head></html>"),
    G("forward authentication", 401, TEXT, "Unauthorized"),
    G("an API gateway without a key", 401, JSON, '{"message":"Unauthorized"}'),
    G("a firewall", 403, HTML, "<html><head><title>403 Forbidden</title></head></html>"),
    G("a CDN's challenge", 403, HTML, "<!DOCTYPE html><html><title>Just a moment...</title></html>"),
    G("an API gateway", 403, JSON, '{"message":"Missing Authentication Token"}'),
    G("object storage", 403, XML, '<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'),
    G("a proxy that requires a password", 407, HTML, "<html>Proxy Authentication Required</html>"),
    G("a legal block", 451, TEXT, "Unavailable For Legal Reasons"),
    G("a single sign-on", 302, HTML, "<a>Found</a>", "https://login.example/start?rd=%2F"),
    # a network before the server
    G("a captive portal that redirects", 302, HTML, "", "http://portal.example/login"),
    G("a captive portal that redirects (307)", 307, "", "", "http://192.168.0.1/"),
    G("a captive portal by RFC 6585", 511, HTML, "<html>Log in to the network</html>"),
    G("a captive portal that responds itself", 200, HTML, "<html>Welcome to the hotel</html>"),
    G("a tunnel's interstitial", 200, HTML, "<!DOCTYPE html><html>You are about to visit</html>"),
    G("a redirect to https", 301, HTML, "<html>301 Moved Permanently</html>", "https://umrgen.example/api/v1/"),
    G("a redirect without a target", 308, "", ""),
    G("a choice of addresses", 300, HTML, "<html>Multiple Choices</html>"),
    # a proxy that does not understand the request
    G("http sent to an https port", 400, HTML, "<html>The plain HTTP request was sent to HTTPS port</html>"),
    G("a proxy's limit of headers", 431, TEXT, "Request Header Fields Too Large"),
    G("a proxy's limit of addresses", 414, HTML, "<html>414 Request-URI Too Large</html>"),
    G("a proxy's limit of bodies", 413, HTML, "<html>413 Request Entity Too Large</html>"),
    G("a cache", 304, "", ""),
    G("a proxy without content", 204, "", ""),
    G("a text", 418, TEXT, "I'm a teapot"),
    # JSON with 200 that is not a status
    G("a health check", 200, JSON, '{"status":"ok"}'),
    G("a list", 200, JSON, "[]"),
    G("an error with 200", 200, JSON, '{"success":false,"error":"Job not found","code":"job_not_found"}'),
    G("a truncated response", 200, JSON, '{"state":"comple'),
)


def table() -> str:
    """Return the responses as rows of a table in Markdown."""
    rows = [
        f"| {response.sender} | {response.status} | {response.content_type.partition(';')[0] or '—'} "
        f"| {('`' + response.body[:44].strip() + '`') if response.body else '—'} |"
        for response in GATEWAY_RESPONSES
    ]
    return "\n".join(["| sender | status | type | body |", "| --- | --- | --- | --- |", *rows])


if __name__ == "__main__":
    print(table())
