#!/bin/bash
set -e
mv "$(grep -l {{ needle }} *)" {{ out }}
