"""The API of the cluster that a pod runs in, over the standard library: the image holds no kubectl."""

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from app.errors import UserError
from app.fleet.deployment import KubernetesSettings

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Object = dict[str, Any]


class Api:
    """One namespace's objects as JSON, with the rights of this pod's service account."""

    def __init__(self, url: str, namespace: str, token_file: Path, ca_file: Path) -> None:
        self._url = url
        self._token_file = token_file
        self._context = ssl.create_default_context(cafile=str(ca_file))
        self.namespace = namespace

    @classmethod
    def of_this_pod(cls, settings: KubernetesSettings) -> "Api":
        """Raises UserError outside a pod, or in one without a token."""
        host = settings.api_host
        if not host or not (ACCOUNT / "token").exists():
            raise UserError(f"{ACCOUNT}/token is not there: this runs in a pod with a service account")
        host = f"[{host}]" if ":" in host else host
        namespace = (ACCOUNT / "namespace").read_text().strip()
        return cls(f"https://{host}:{settings.api_port}", namespace, ACCOUNT / "token", ACCOUNT / "ca.crt")

    def get(self, kind: str, name: str) -> Object | None:
        """One object, or None where there is none."""
        found: Object | None = self._ask("GET", f"{kind}/{name}", missing_ok=True)
        return found

    def select(self, kind: str, selector: str) -> list[Object]:
        """The objects with these labels."""
        answer = self._ask("GET", f"{kind}?labelSelector={urllib.parse.quote(selector)}")
        return list(answer["items"]) if answer else []

    def write(self, kind: str, body: Object) -> str:
        """Create the object or, where it is there, replace its content. Returns what was done."""
        name = body["metadata"]["name"]
        if self.get(kind, name) is None:
            self._ask("POST", kind, body)
            return "made"
        self._ask("PUT", f"{kind}/{name}", body)
        return "replaced"

    def _ask(self, method: str, path: str, body: Object | None = None, *, missing_ok: bool = False) -> Any:
        group = "apis/apps/v1" if path.startswith("statefulsets") else "api/v1"
        request = urllib.request.Request(
            f"{self._url}/{group}/namespaces/{self.namespace}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            # The kubelet replaces the token file while the pod runs, so it is read each time.
            headers={
                "Authorization": f"Bearer {self._token_file.read_text().strip()}",
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404 and missing_ok:
                return None
            raise UserError(
                f"the cluster's API refused {method} {path}: {error.code} {error.reason}"
            ) from None
        except OSError as error:
            raise UserError(
                f"the cluster's API does not answer {method} {path} ({error}): "
                "does the NetworkPolicy bouquet-keys name its port?"
            ) from None
