#!/bin/bash
set -e
wc -l < {{ file }} > {{ out }}
