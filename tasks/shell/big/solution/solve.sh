#!/bin/bash
set -e
rm "$(ls {{ flag }} | head -n 1)"
