#!/usr/bin/env bash
# `make demo`: serve the default bundle, ask the published model card's question, and evaluate.
set -euo pipefail

folder=$(mktemp -d)
address=unix:$folder/socket
"$BIN/electra-qa" serve --address "$address" --log-level warning &
server=$!
trap 'kill $server; wait $server || true; rm -rf "$folder"' EXIT

echo "What has been discovered by scientists from China?"
"$BIN/electra-qa" ask "What has been discovered by scientists from China?" \
    --context "A new strain of flu that has the potential to become a pandemic has been identified in China by scientists." \
    --address "$address" --wait 60
echo

if [ -n "${DATA:-}" ]; then
    "$BIN/electra-qa" eval --data "$DATA" --address "$address"
else
    "$BIN/electra-qa" eval --data squad-v2-dev --address "$address" || {
        echo "Without a network (or DATA=dev-v2.0.json) a small set of our own has to do:"
        "$BIN/electra-qa" eval --data tests/data/small.json --address "$address"
    }
fi
