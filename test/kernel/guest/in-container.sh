# Runs a command where /sys/fs/cgroup begins with the group it is in.
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec "$@"
