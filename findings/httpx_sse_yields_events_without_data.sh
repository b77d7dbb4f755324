#!/usr/bin/env bash
# httpx-sse 0.4.3 hands out an event for a block that has no data, such as one with `retry:` alone.
# The HTML standard says of such a block that nothing is dispatched. A client that decodes `event.data` as JSON fails at
# the first one: check `if event.data` before. Seen: two events, of which the first has the data "".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check httpx==0.28.1 httpx-sse==0.4.3
found=$("$folder/venv/bin/python" - <<'PYTHON'
import httpx
import httpx_sse

stream = b'retry: 1000\n\nid: 1\ndata: {"n": 1}\n\n'
answer = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
print([event.data for event in httpx_sse.EventSource(answer).iter_sse()])
PYTHON
)
echo "httpx-sse 0.4.3: $found"
test "$found" = "['', '{\"n\": 1}']"
