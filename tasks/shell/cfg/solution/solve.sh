#!/bin/bash
set -e
sed -n 's/^{{ key }}=//p' {{ file }} > {{ out }}
