#!/bin/sh
# Passes when greeting.txt is a regular file that holds the greeting and nothing else.
reward=0
if [ -f /work/greeting.txt ] && [ ! -L /work/greeting.txt ] && [ "$(cat /work/greeting.txt)" = "Hello, Ada" ]; then
  reward=1
fi
[ -d /logs/verifier ] || mkdir -p /logs/verifier
echo "$reward" >/logs/verifier/reward.txt
