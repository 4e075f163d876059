#!/bin/bash
set -e
mkdir -p {{ folder }}
touch {{ folder }}/{{ file }}
