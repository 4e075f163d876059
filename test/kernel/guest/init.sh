#!/bin/busybox sh
# Process 1 of the machine, in its first root file system: drivers, the disk, then guest/run.sh there.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk overlay; do
  [ ! -e "/modules/$module.ko" ] || insmod "/modules/$module.ko"
done
mount -t devtmpfs devtmpfs /dev
i=0
while [ ! -e /dev/vda ] && [ $((i += 1)) -lt 100 ]; do sleep 0.1; done
mkdir -p /disk
mount -t ext4 /dev/vda /disk
for folder in proc sys dev; do mount --move "/$folder" "/disk/$folder"; done
mount -t tmpfs tmpfs /disk/run
cp -r /steps /guest /disk/run/
exec switch_root /disk /run/guest/run.sh
