#!/bin/bash
set -e
{% for name in path %}
cat {{ name }}
{% endfor %}
rm {{ bad }}
mkdir {{ folder }}
mv {{ good }} {{ folder }}
touch {{ mark }}
