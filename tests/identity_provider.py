"""An identity provider of our own on loopback, with one user, that can be told to lie."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

PUBLIC = "http://127.0.0.1:8042"


@dataclass
class IdentityProvider:
    """A provider with one user; its authorisation endpoint knows the user's browser already and sends it back at once."""

    key: ECKey | RSAKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "one"}))
    claims: dict[str, Any] = field(default_factory=dict)  # added to what it says of the user, or instead of it
    sign: Callable[[dict[str, Any]], str] | None = None
    issuer: str = ""
    public: str = PUBLIC  # where the pages are
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    described: dict[str, Any] = field(default_factory=dict)  # in its description of itself, instead of what is true
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)  # to a path, instead

    def sign_in(self, url: str) -> dict[str, str]:
        """Play the user who logs in: return what the browser brings back."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert asked["redirect_uri"] == f"{self.public}/login/oidc/callback"
        assert "openid" in asked["scope"]
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return {"code": code, "state": asked["state"]}

    def redeem(self, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        """Answer the token endpoint; None refuses."""
        asked = self.codes.pop(form.get("code", ""), None)
        basic = base64.b64encode(b"carpus:client secret").decode()
        if asked is None or authorization != f"Basic {basic}":
            return None
        challenge = (
            base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
        )
        if challenge != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            return None
        now = int(time.time())
        said = {
            "iss": self.issuer,
            "aud": "carpus",
            "sub": "4711",
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            "preferred_username": "lichen",
            "name": "Li Chen",
            "realm_access": {"roles": ["offline_access", "carpus-readers"]},
        } | self.claims
        id_token = self.sign(said) if self.sign else jwt.encode({"alg": "ES256", "kid": "one"}, said, self.key)
        return {"access_token": "x", "token_type": "Bearer", "id_token": id_token}

    def handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                at = provider.issuer
                if self.path in provider.answers:
                    provider.answers[self.path](self)
                    return
                if urlsplit(self.path).path == "/authorize":
                    self.send_response(302)
                    back = urlencode(provider.sign_in(self.path))
                    self.send_header("Location", f"{provider.public}/login/oidc/callback?{back}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                pages = {
                    "/.well-known/openid-configuration": {
                        "issuer": at,
                        "authorization_endpoint": f"{at}/authorize",
                        "token_endpoint": f"{at}/token",
                        "jwks_uri": f"{at}/keys",
                        **provider.described,
                    },
                    "/keys": {"keys": [provider.key.as_dict(private=False)]},
                }
                self._answer(pages.get(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                if self.path in provider.answers:
                    provider.answers[self.path](self)
                    return
                form = {name: values[0] for name, values in parse_qs(body).items()}
                self._answer(provider.redeem(form, self.headers.get("Authorization", "")))

            def _answer(self, found: Any) -> None:
                text = json.dumps(found if found is not None else {"error": "invalid_grant"}).encode()
                self.send_response(200 if found is not None else 400)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_arguments: Any) -> None:
                pass

        return Handler


@contextmanager
def serving(provider: IdentityProvider, *, host: str = "127.0.0.1") -> Iterator[None]:
    """Answer on a port of loopback, under the name `host`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), provider.handler()) as server:
        provider.issuer = f"http://{host}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield
        server.shutdown()
        thread.join()
