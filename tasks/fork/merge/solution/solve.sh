#!/bin/bash
set -e
{% for name in names %}
cat {{ name }} >> {{ out }}
{% endfor %}
sort -o {{ out }} {{ out }}
mkdir {{ folder }}
mv {{ out }} {{ folder }}
touch {{ mark }}
