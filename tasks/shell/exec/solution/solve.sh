#!/bin/bash
set -e
chmod +x {{ file }}
./{{ file }} > {{ out }}
