#!/bin/bash
set -e
sort -u {{ file }} > {{ out }}
