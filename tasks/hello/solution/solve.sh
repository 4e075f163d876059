#!/bin/bash
set -e
echo "Hello, $(head -n 1 names.txt)" > greeting.txt
