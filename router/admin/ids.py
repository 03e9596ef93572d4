"""Names of conversations that hold for all tenants at once.

A name says which tenant and which key of the store are meant, so it is found again after a restart and on any machine
that shares the store, without a search and also when nothing but remains of the conversation is left.
"""

from __future__ import annotations

import base64
import binascii
import re

_TENANT = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(r"[0-9a-f]{40}")
_KEY_BYTES = 20
_TENANT_BYTES = 16
_LOCAL = "local"
"""The one tenant that is no digest: see `router.intake.conversation.tenant_of`."""


def conversation_id(tenant: str, key: str) -> str | None:
    """`None` for what no request has made."""
    if not _KEY.fullmatch(key) or not (tenant == _LOCAL or _TENANT.fullmatch(tenant)):
        return None
    of_tenant = b"" if tenant == _LOCAL else bytes.fromhex(tenant)
    return base64.urlsafe_b64encode(of_tenant + bytes.fromhex(key)).rstrip(b"=").decode()


def named(id_: str) -> tuple[str, str] | None:
    """Tenant and key of this name; `None` where it is none."""
    try:
        raw = base64.b64decode(id_ + "=" * (-len(id_) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) not in (_KEY_BYTES, _TENANT_BYTES + _KEY_BYTES):
        return None
    tenant, key = raw[:-_KEY_BYTES].hex() or _LOCAL, raw[-_KEY_BYTES:].hex()
    return (tenant, key) if conversation_id(tenant, key) == id_ else None
