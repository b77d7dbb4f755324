#!/usr/bin/env bash
# Varnish 7.1.1 (Debian 12) ends an answer `send_timeout` seconds (600) after its start, however regularly its bytes come.
# The other time limits of proxies are for silence. An event stream is cut every ten minutes, and its client comes back
# each time; WebSockets, which go through `pipe`, are not. In VCL: `set sess.send_timeout = 30d;` in vcl_recv.
# Seen: of ten events, one a second, with send_timeout=3 at most five arrive, and all with the line in VCL.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
mkdir -p archives/partial root
apt-get -qq -o Debug::NoLocking=true -o APT::Sandbox::User=root -o Dir::Cache::archives="$folder/archives" \
  install --download-only --reinstall --yes --no-install-recommends varnish >/dev/null
for archive in archives/*.deb; do dpkg -x "$archive" root; done
export LD_LIBRARY_PATH="$folder/root/usr/lib/$(uname -m)-linux-gnu"
cat >origin.py <<'PYTHON'
import http.server, sys, time
class Stream(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(10):
            self.wfile.write(b"data: %d\n\n" % number)
            time.sleep(1)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stream)
print(server.server_port, flush=True)
server.serve_forever()
PYTHON
python3 origin.py >port 2>/dev/null &
until [ -s port ]; do sleep 0.1; done
through() { # LINE of VCL: set $found
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' >front
  printf 'vcl 4.1;\nbackend default { .host = "127.0.0.1"; .port = "%s"; }\nsub vcl_recv { %s return (pass); }\n' \
    "$(cat port)" "$1" >main.vcl
  root/usr/sbin/varnishd -F -j none -n "$folder/$RANDOM" -f "$folder/main.vcl" -s malloc,16m -T none \
    -a "127.0.0.1:$(cat front)" -p send_timeout=3 >varnish.log 2>&1 &
  found=$(curl -sN --retry 100 --retry-connrefused --retry-delay 1 --max-time 90 "http://127.0.0.1:$(cat front)/" |
    grep -c data || true)
}
through '' && cut=$found
through 'set sess.send_timeout = 30d;' && whole=$found
root/usr/sbin/varnishd -V 2>&1 | sed -n 1p
echo "events that arrive: $cut of 10; with sess.send_timeout in VCL: $whole"
test "$cut" -le 5 && test "$whole" = 10
