#!/usr/bin/env bash
# HAProxy 2.6.12 (Debian 12) passes small pieces of an answer on late on plain HTTP: a piece waits for the next one, or for
# some 200 ms. Over TLS it does not. `option http-no-delay` ends that.
# Seen: of 60 events, 150 ms apart, the median is more than 50 ms late, and less with the option.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
mkdir -p archives/partial root
apt-get -qq -o Debug::NoLocking=true -o APT::Sandbox::User=root -o Dir::Cache::archives="$folder/archives" \
  install --download-only --reinstall --yes --no-install-recommends haproxy >/dev/null
for archive in archives/*.deb; do dpkg -x "$archive" root; done
export LD_LIBRARY_PATH="$folder/root/usr/lib/$(uname -m)-linux-gnu"
cat >origin.py <<'PYTHON'
import http.server, time
class Stream(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(60):
            data = b"data: %.6f\n\n" % time.time()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            time.sleep(0.15)
        self.wfile.write(b"0\r\n\r\n")
    def log_message(self, *_): pass
Stream.disable_nagle_algorithm = True
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stream)
print(server.server_port, flush=True)
server.serve_forever()
PYTHON
cat >client.py <<'PYTHON'
import http.client, statistics, sys, time
deadline = time.time() + 30
while True:
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    try:
        connection.request("GET", "/")
        break
    except ConnectionRefusedError:
        if time.time() > deadline: raise
        time.sleep(0.1)
answer, late = connection.getresponse(), []
while line := answer.readline():
    if line.startswith(b"data: "): late.append((time.time() - float(line[6:])) * 1000)
print(round(statistics.median(late)))
PYTHON
python3 origin.py >port 2>/dev/null &
until [ -s port ]; do sleep 0.1; done
through() { # OPTION: set $late
  local front
  front=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  printf '%s\n' 'defaults' ' mode http' ' timeout connect 5s' ' timeout client 50s' ' timeout server 50s' " $1" \
    'frontend f' " bind 127.0.0.1:$front" ' default_backend b' 'backend b' " server s 127.0.0.1:$(cat port)" >"$front.cfg"
  root/usr/sbin/haproxy -db -f "$front.cfg" >/dev/null 2>&1 &
  late=$(python3 client.py "$front")
}
through '' && held=$late
through 'option http-no-delay' && at_once=$late
root/usr/sbin/haproxy -v | sed -n 1p
echo "median lateness of an event: $held ms; with option http-no-delay: $at_once ms"
test "$held" -gt 50 && test "$at_once" -lt 50
