#!/bin/bash
set -e
mkdir {{ folder }}
mv *.{{ ext }} {{ folder }}
