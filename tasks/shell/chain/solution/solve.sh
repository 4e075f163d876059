#!/bin/bash
set -e
file={{ path[0] }}
while read -r kind word < "$file" && [ "$kind" = next ]; do file=$word; done
echo "$word" > {{ out }}
