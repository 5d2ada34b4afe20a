#!/bin/sh
# A holder of one value: the file named by the first argument. Needs jq. Copy it and put your system's calls in.
set -eu
umask 077
file=$1
request=$(cat)
verb=$(printf %s "$request" | jq -r .verb)

case $verb in
observe)
  if [ ! -e "$file" ]; then
    echo '{"entries": [], "current": null}'
  else
    # `recognise: value`: the known versions come with their secrets. The value goes to jq through a file, never as an argument.
    printf %s "$request" | jq --rawfile held "$file" '
      ([.known[] | select(.material.value == $held) | .id] | first) as $id
      | {entries: [{mark: "value", enabled: true} + (if $id then {version: $id} else {} end)], current: "value"}'
  fi
  ;;
activate)
  printf %s "$request" | jq -j .version.material.value > "$file.new"
  mv "$file.new" "$file"
  echo '{}'
  ;;
probe)
  if [ -e "$file" ] && printf %s "$request" | jq -e --rawfile held "$file" '.version.material.value == $held' > /dev/null; then
    echo '{"outcome": "accepted", "detail": "the file holds it"}'
  else
    echo '{"outcome": "refused", "detail": "the file holds something else"}'
  fi
  ;;
*)
  echo "unknown verb $verb" >&2
  exit 78
  ;;
esac
