"""What to change, in words: flags and versions by engine, as data.

The facts behind them (which version breaks what, and how that looks on the wire) are those by which the readers in
`router.protocol` were made.  Parser names are vLLM's; SGLang has the same for most of these families.
"""

from __future__ import annotations

import re

from router.doctor.facts import Facts

_PARSERS: tuple[tuple[str, str, str], ...] = (
    # model id, tool-call parser, reasoning parser
    (r"qwen-?3\.[5-9]|qwen-?3-?coder", "qwen3_coder", "qwen3"),
    (r"qwen", "hermes", "qwen3"),
    (r"glm-?(4\.[7-9]|5)", "glm47", "glm45"),
    (r"glm", "glm45", "glm45"),
    (r"deepseek.*v3\.2", "deepseek_v32", "deepseek_v3"),
    (r"deepseek.*v3\.1", "deepseek_v31", "deepseek_v3"),
    (r"deepseek", "deepseek_v3", "deepseek_r1"),
    (r"kimi.*k2", "kimi_k2", "kimi_k2"),
    (r"minimax.*m2", "minimax_m2", "minimax_m2"),
    (r"gpt-?oss", "openai", "openai_gptoss"),
)


def _parsers(facts: Facts) -> tuple[str, str]:
    for pattern, tools, reasoning in _PARSERS:
        if re.search(pattern, facts.model or "", re.IGNORECASE):
            return tools, reasoning
    return "", ""


def tool_parser(facts: Facts) -> str:
    """Calls do not come as calls."""
    name = _parsers(facts)[0] or "NAME (the one on the model's card)"
    return {
        "vllm": f"start vLLM with --enable-auto-tool-choice --tool-call-parser {name}",
        "sglang": f"start SGLang with --tool-call-parser {name}",
        "llamacpp": "start llama-server with --jinja (and the model's own --chat-template-file, if its GGUF has none)",
        "ollama": "take a model whose page on ollama.com is tagged 'tools', and a current Ollama",
    }.get(facts.engine, f"switch the server's tool-call parser on (vLLM, SGLang: --tool-call-parser {name})") + (
        "; for a model without tools set images = 'caption' in " + facts.place
    )


def reasoning_parser(facts: Facts) -> str:
    """Thoughts stand among the words."""
    name = _parsers(facts)[1] or "NAME (the one on the model's card)"
    return {
        "llamacpp": "start llama-server with --jinja --reasoning-format deepseek (not none)",
        "ollama": "update Ollama: it parses thoughts for models that its library marks 'thinking'",
    }.get(facts.engine, f"start the server with --reasoning-parser {name}")


_SPECULATIVE = "this is what speculative decoding does to a streaming tool-call parser"


def speculative(facts: Facts) -> str:
    """Calls that break in the stream only."""
    if facts.engine == "vllm":
        older = facts.older_than(0, 24)
        update = "update vLLM to 0.24 or later (before, the qwen3_coder and qwen3_xml parsers lose parts of a call)"
        lower = "set num_speculative_tokens to 2 or less in --speculative-config, or leave it out"
        return f"{_SPECULATIVE}: {lower}" if older is False else f"{_SPECULATIVE}: {lower}; {update}"
    if facts.engine == "sglang":
        return f"{_SPECULATIVE}: lower --speculative-num-draft-tokens to 2, or update SGLang"
    return f"{_SPECULATIVE}: lower the number of draft tokens to 2 (vLLM: num_speculative_tokens), or update the server"


def grammar(facts: Facts) -> str:
    return (
        "constrained decoding and speculative decoding do not agree (vLLM with xgrammar): leave --speculative-config "
        "out or update the server; until then clients must not force tools"
    )


def thinks_first(facts: Facts) -> str:
    """The call stands inside the thoughts."""
    if facts.engine == "vllm":
        return "update vLLM to 0.20 or later, where a tool call ends the thought; Chiasm mends its own calls only"
    return "update the server: a tool call must end the thought; Chiasm mends its own calls only, not your client's"


def weak_model(facts: Facts) -> str:
    return (
        f"nothing is broken on the wire: the model did not want to. Take one that is trained for tools, or set "
        f"images = 'caption' in {facts.place}"
    )


def context(facts: Facts, wanted: int) -> str:
    return {
        "vllm": f"raise --max-model-len to {wanted} or more",
        "sglang": f"raise --context-length to {wanted} or more",
        "llamacpp": f"raise -c to {wanted} or more (it is divided by -np)",
        "ollama": f"set OLLAMA_CONTEXT_LENGTH={wanted} where ollama serve runs",
    }.get(facts.engine, f"raise the server's context length to {wanted} or more")


def cache(facts: Facts) -> str:
    return {
        "vllm": "drop --no-enable-prefix-caching if it is set; hybrid models (Qwen3.5 and later) share prompts in "
        "blocks of 528 to 2096 tokens and at few places, so with them little or nothing may be reused",
        "sglang": "drop --disable-radix-cache",
        "llamacpp": "drop --no-cache-prompt, and give -np more slots if several conversations take turns",
    }.get(facts.engine, "switch the server's prefix cache on: a conversation is read anew at every turn without it")


def cache_not_told(facts: Facts) -> str:
    return {
        "vllm": "to see it, start vLLM with --enable-prompt-tokens-details",
        "sglang": "to see it, start SGLang with --enable-cache-report",
    }.get(facts.engine, "")


def usage(facts: Facts) -> str:
    return {
        "vllm": "start vLLM with --enable-force-include-usage",
    }.get(facts.engine, "update the server, or whatever stands before it: stream_options.include_usage was asked for")


def buffered(server: str) -> str:
    if "nginx" in server:
        return "nginx holds the stream back: set 'proxy_buffering off;' in its location"
    return (
        "something between Chiasm and the server collects the stream: switch its response buffering off (nginx: "
        "proxy_buffering off; Apache: flushpackets=on; a CDN: leave it out of the way)"
    )


def pictures_taken(facts: Facts) -> str:
    """The eyes get words only."""
    return {
        "vllm": "serve a vision model, without --language-model-only and with --limit-mm-per-prompt '{\"image\": 8}'",
        "llamacpp": "start llama-server with the model's --mmproj file",
        "ollama": "take a model whose page on ollama.com is tagged 'vision'",
    }.get(facts.engine, "serve a vision model there, with its vision part loaded")


def picture_limit(facts: Facts) -> str:
    return {
        "vllm": "start vLLM with --limit-mm-per-prompt '{\"image\": 8}'",
        "sglang": "raise --limit-mm-data-per-request to 8 images",
    }.get(facts.engine, "raise the server's limit of pictures in one request to 8")


def small_pictures(facts: Facts) -> str:
    return {
        "vllm": "drop the size limit from --mm-processor-kwargs (longest_edge 4194304 is what Chiasm sends at most)",
        "sglang": "raise max_pixels in --mm-process-config, or SGLANG_IMAGE_MAX_PIXELS",
        "llamacpp": "raise --image-max-tokens to 4096",
    }.get(facts.engine, "raise the server's limit of pixels or tokens for a picture")
