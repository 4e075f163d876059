#!/bin/bash
set -e
rm "$(grep -l {{ needle }} *)"
