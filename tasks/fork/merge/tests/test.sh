#!/bin/sh
# Passes when the working directory is exactly the expected tree: nothing missing, changed or added, and no links.

# True when something below $1 is neither a file nor a folder.
has_special() {
  for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
    if [ -L "$entry" ]; then return 0; fi
    if [ -d "$entry" ]; then
      if has_special "$entry"; then return 0; fi
    elif [ -e "$entry" ] && [ ! -f "$entry" ]; then
      return 0
    fi
  done
  return 1
}

reward=0
if [ ! -L /work ] && ! has_special /work && diff -qr /tests/expected /work >/dev/null 2>&1; then
  reward=1
fi
[ -d /logs/verifier ] || mkdir -p /logs/verifier
echo "$reward" >/logs/verifier/reward.txt
