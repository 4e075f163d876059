#!/bin/bash
set -e
mkdir {{ folder }}
{% for name in names %}
mv {{ name }} {{ folder }}
{% endfor %}
touch {{ mark }}
cp {{ mark }} {{ folder }}
