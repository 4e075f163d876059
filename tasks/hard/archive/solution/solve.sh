#!/bin/bash
set -e
mkdir -p {{ top }}/{{ folder }}
mv {{ file }} {{ top }}/{{ folder }}
grep {{ word }} {{ text }} > {{ found }}
mv {{ found }} {{ top }}/{{ folder }}
head -n 1 {{ list }} > {{ first }}
cat {{ first }} >> {{ log }}
rm {{ first }}
cp {{ log }} {{ top }}
touch {{ mark }}
cp {{ mark }} {{ top }}/{{ mark }}
