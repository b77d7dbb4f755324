# Runs inside of the systemd that own_systemd.sh boots; tests/test_deploy.py reads what it says.
also() { # lines that the unit has beside its own
  mkdir -p /etc/systemd/system/portico.service.d
  printf '[Service]\n%b\n' "$1" >/etc/systemd/system/portico.service.d/also.conf
  systemctl daemon-reload
}
healthy() {
  /opt/portico/bin/python - <<'END'
import socket
with socket.socket(socket.AF_UNIX) as client:
    client.connect("/run/portico/portico.sock")
    client.sendall(b"GET /readyz HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n")
    print("answer:", client.makefile().readlines()[-1])
END
}
told() { journalctl --no-pager --quiet -u portico -o cat -n 20; }
export LD_LIBRARY_PATH=/opt/python/lib

also 'Environment=PORTICO_SANDBOX=required'
systemctl start portico && echo 'started'
systemctl show -p StatusText portico
told
grep -c ' /proc/' "/proc/$(systemctl show -p MainPID --value portico)/mountinfo" | sed 's/^/covers on proc: /'
systemctl reload portico && echo "reloaded, $(systemctl is-active portico)"
systemctl stop portico
systemctl show -p Result -p ExecMainStatus portico

systemctl start portico.socket
ls -l /run/portico/portico.sock
echo "before the first connection: $(systemctl is-active portico)"
healthy
systemctl stop portico
healthy
systemctl stop portico.socket portico

also 'Environment=PORTICO_PORT=many'
systemctl start portico
sleep 4 # RestartSec, twice
systemctl show -p ExecMainStatus -p NRestarts portico

also 'Environment=PORTICO_SANDBOX=required PORTICO_PORT=0\nExecStart=\nExecStart=/opt/portico/bin/portico demo'
systemctl reset-failed portico
systemctl start portico
for second in $(seq 60); do
  if told | grep 'You said'; then break; fi
  sleep 1
done
systemctl stop portico
echo 'the end'
