"""A server that does not speak a wire format at all, told from one that does not have the model."""

from __future__ import annotations

from router.errors import ChiasmError, UpstreamRefused

_WHO_HAS_IT = {
    "/messages": "Anthropic Messages (vLLM, SGLang, llama.cpp and Ollama do, in versions of 2026)",
    "/responses": "OpenAI Responses (vLLM, SGLang, llama.cpp and Ollama do, in versions of 2026)",
}
_INSTEAD = {
    "/messages": "point the client at /v1/chat/completions; Claude Code goes there through claude-code-router, with a "
    "provider whose address ends in /v1/chat/completions",
    "/responses": "use a client that speaks to /v1/chat/completions, which Codex does not",
}
"""By path, behind a server's base URL."""


def explained(error: ChiasmError, path: str) -> ChiasmError:
    """`error`, or what to do about it, where it says that the server has nothing at `path`.

    A 404 is also how servers say that they do not have the model, or the response to go on from; those words name it.
    """
    said = error.message.lower()
    lacks_path = isinstance(error, UpstreamRefused) and (
        error.status == 405 or (error.status == 404 and "model" not in said and "response with id" not in said)
    )
    family = f"/{path.split('/')[1]}"
    if not lacks_path or family not in _WHO_HAS_IT:
        return error
    return UpstreamRefused(
        f"the text model's server has nothing at {path} under its base URL (it answered {error.status}: "
        f"{error.message[:200]}). It must speak {_WHO_HAS_IT[family]}, and its base URL must end where its /v1 does. "
        f"Otherwise {_INSTEAD[family]}.",
        status=404,
        code="upstream_lacks_path",
    )
