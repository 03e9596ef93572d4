"""Whether the Chiasm on this machine can be sent requests, by its exit code: 0 yes, 1 no.

    python ready.py           # brain and eyes usable; without its store it still answers, so that is no reason
    python ready.py --alive   # the process itself

For a health check where there is no curl.  Needs only Python's own library.
"""

import json
import os
import sys
import urllib.error
import urllib.request

PORT = os.environ.get("CHIASM_SERVER__PORT", "8090")


def main() -> int:
    path = "/healthz" if "--alive" in sys.argv[1:] else "/readyz"
    # A proxy from the environment has no business between this machine and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{PORT}{path}", timeout=5) as answer:
            return 0 if answer.status == 200 else 1
    except urllib.error.HTTPError as error:
        try:
            status = json.load(error)["status"]
        except (ValueError, KeyError, TypeError):
            status = ""
        sys.stdout.write(f"{error.code} {status}\n")
        return 0 if status == "degraded" else 1
    except OSError as error:
        sys.stdout.write(f"no answer: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
