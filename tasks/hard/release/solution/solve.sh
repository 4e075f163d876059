#!/bin/bash
set -e
mkdir {{ folder }}
cp {{ notes }} {{ folder }}
sort -u {{ list }} > {{ out }}
mv {{ out }} {{ folder }}
sed -i s/{{ old }}/{{ new }}/ {{ notes }}
chmod +x {{ script }}
./{{ script }} > {{ log }}
rm {{ junk }}
wc -l < {{ list }} > {{ count }}
touch {{ folder }}/{{ mark }}
