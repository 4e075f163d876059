#!/bin/bash
set -e
mkdir {{ folder }}
cp {{ first }} {{ folder }}
cp {{ second }} {{ folder }}
cp {{ file }} {{ keep }}
sed -i s/{{ old }}/{{ new }}/ {{ file }}
sort {{ file }} > {{ out }}
mv {{ file }} {{ folder }}
touch {{ mark }}
