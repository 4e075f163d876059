#!/bin/bash
set -e
sed -i s/{{ bad }}/{{ good }}/ {{ file }}
