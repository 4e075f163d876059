#!/bin/busybox sh
# Process 1 of the machine, on its disk: mounts what a distribution would, runs /run/steps/* one after the other, and tells of each in one
# line on the second serial line: name, exit code, milliseconds, output in base64. What is said to the first one is for people.
exec >/dev/ttyS0 2>&1
export PATH=/usr/bin:/bin HOME=/root LANG=C.UTF-8
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
# A checkout below /tmp stays in sight.
mkdir -p /run/tmp-of-disk
mount --bind /tmp /run/tmp-of-disk
mount -t tmpfs -o mode=1777 tmpfs /tmp
for folder in /run/tmp-of-disk/*/; do
  [ -d "$folder" ] || continue
  mkdir -p "/tmp/$(basename "$folder")"
  mount --bind "$folder" "/tmp/$(basename "$folder")"
done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
stty -F /dev/ttyS1 raw -echo
now() { cut -d' ' -f1 /proc/uptime | tr -d .; }
for step in /run/steps/*; do
  name=$(basename "$step")
  started=$(now)
  echo "== $name"
  setsid timeout -s KILL "$(sed -n 's/^#limit //p' "$step")" bash "$step" >"/run/$name.out" 2>&1 </dev/null
  code=$?
  cat "/run/$name.out"
  echo "$name $code $((($(now) - started) * 10)) $(base64 -w 0 "/run/$name.out")" >/dev/ttyS1
done
poweroff -f
