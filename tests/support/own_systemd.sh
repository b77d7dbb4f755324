#!/bin/sh
# Boots a systemd of its own, with the units of deploy/, on a copy of this machine: nothing that it does reaches the
# machine itself.
#
#   own_systemd.sh SOURCE FOLDER GROUP PROBE BASE SITE NAME
#
# SOURCE is the checkout, FOLDER a folder for the copy and for what PROBE writes into /out, GROUP a control group to make.
# PROBE is a script that runs inside as root; with it all ends. BASE is the installation of Python, SITE its
# site-packages, and NAME its program. Exit status 77: this machine does not allow it, and the last line says why.
set -eu
source=$1 folder=$2 group=$3 probe=$4 base=$5 site=$6 name=$7
trap 'exit 77' EXIT
if [ $$ != 1 ]; then
  mkdir "$group"
  echo $$ >"$group/cgroup.procs"
  exec unshare --mount --pid --fork --kill-child --uts --ipc --net --cgroup sh "$0" "$@"
fi
mount --make-rprivate /
mkdir -p "$folder/layers" "$folder/out"
mount -t tmpfs tmpfs "$folder/layers"
cd "$folder/layers"
mkdir up work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/up,workdir=$PWD/work" root
cd root
mkdir -p out old opt/python opt/source/portico opt/portico/bin "opt/portico/lib/$name/site-packages" etc/portico
mount --bind "$folder/out" out
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for node in null,3 zero,5 full,7 random,8 urandom,9; do
  mknod -m 666 "dev/${node%,*}" c 1 "${node#*,}"
done
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp

mount --bind "$base" opt/python
mount --bind "$source/portico" opt/source/portico
mount --bind "$site" "opt/portico/lib/$name/site-packages"
ln -s "/opt/python/bin/$name" opt/portico/bin/python
echo 'home = /opt/python/bin' >opt/portico/pyvenv.cfg
printf '#!/opt/portico/bin/python\nfrom portico.cli.main import main\nmain()\n' >opt/portico/bin/portico
chmod 755 opt opt/source opt/portico opt/portico/bin opt/portico/bin/portico

# Of the machine's units none but the journal, and nothing that looks at disks, modules or sysctls.
rm -rf etc/fstab etc/systemd/system/* usr/lib/systemd/system/*.wants usr/lib/systemd/system-generators
chroot . useradd --system --user-group --home-dir /var/lib/portico --shell /usr/sbin/nologin portico
cp "$source/deploy/portico.service" "$source/deploy/portico.socket" etc/systemd/system/
mkdir etc/systemd/system/portico.service.d
printf '[Service]\nEnvironment=PYTHONPATH=/opt/source LD_LIBRARY_PATH=/opt/python/lib\n' >etc/systemd/system/portico.service.d/source.conf
cp "$probe" probe
cat >etc/systemd/system/probe.service <<'END'
[Unit]
Wants=systemd-journald.service
After=basic.target systemd-journald.service
[Service]
Type=oneshot
ExecStart=/bin/sh /probe
ExecStopPost=/bin/systemctl --force --force poweroff
StandardOutput=append:/out/said
StandardError=append:/out/said
END
pivot_root . old
cd /
umount -l /old
trap - EXIT
exec env -i container=test PATH="$PATH" \
  /lib/systemd/systemd --system --unit=probe.service --log-target=console --log-level=notice --show-status=no
