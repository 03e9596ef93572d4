"""What it costs to count how much of a prompt a server can use again: `python -m benchmarks.prefix_count`.

200 messages of 2 kB, the last two new in each request; the time of one count in this process, the median of many.
"""

from __future__ import annotations

import statistics
import time

from router.telemetry.prefixes import Prefixes

MESSAGES, CHARACTERS, REQUESTS = 200, 2000, 200


def main() -> None:
    prefixes, taken, shares = Prefixes(), [], []
    for request in range(REQUESTS):
        # New objects each time, as a parsed body has them.
        words = [f"{at} " + "word " * (CHARACTERS // 5) for at in range(request, request + MESSAGES)]
        words[: MESSAGES - 2] = [f"{at} " + "word " * (CHARACTERS // 5) for at in range(MESSAGES - 2)]
        messages = [{"role": "user" if at % 2 else "assistant", "content": text} for at, text in enumerate(words)]
        begun = time.perf_counter()
        total, reused = prefixes.compare("c", [{"messages": messages}])
        taken.append(time.perf_counter() - begun)
        shares.append(reused / total)
    print(f"{statistics.median(taken) * 1e6:.0f} µs for {MESSAGES} messages of {CHARACTERS} bytes")
    print(f"{statistics.median(shares):.1%} of them were found to be the beginning of the prompt before")


if __name__ == "__main__":
    main()
