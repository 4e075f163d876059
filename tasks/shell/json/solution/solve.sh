#!/bin/bash
set -e
sed -n 's/^ *"{{ key }}": "\([a-z]*\)",*$/\1/p' {{ file }} > {{ out }}
