#!/bin/bash
set -e
sed -i s/{{ old }}/{{ new }}/g {{ file }}
